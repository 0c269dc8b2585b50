"""What saves memory changes what is learned by no more than weights of 8 bits do."""

from pathlib import Path

import torch

from coinage.embeddings.verify import COMPARED
from coinage.training.final_check import check_saved_file
from tests.helpers import prepared, rows_of, trained


def test_little_memory_learns_much_the_same(moon_dataset: Path, tmp_path: Path) -> None:
    given = ("--mixed_precision=bf16", "--max_train_steps=20", "--keep_best", "--cache_latents")
    run, word = trained(moon_dataset, tmp_path / "a", *given, "--low_memory")
    _, plain = trained(moon_dataset, tmp_path / "b", *given)
    start = rows_of(prepared(moon_dataset, tmp_path / "c", *given).embedding())
    moved, expected = rows_of(word) - start, rows_of(plain) - start
    assert torch.nn.functional.cosine_similarity(moved, expected).min() > 0.9
    assert run.parts.at_once == 1
    assert {
        layer.weight.dtype
        for module in (run.parts.denoiser, *run.parts.text_encoders)
        for layer in module.modules()
        if isinstance(layer, torch.nn.Linear)
    } == {torch.int8}
    assert run.config.model.gradient_checkpointing
    assert run.parts.dtype == torch.bfloat16
    checks = {check.tool: check for check in check_saved_file(run).checks}
    assert all(checks[tool].same for tool in COMPARED)
