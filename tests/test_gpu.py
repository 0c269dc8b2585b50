"""Training on a GPU is training on a CPU, only faster (`make gpu-check`)."""

from pathlib import Path

import pytest
import torch

from coinage.checks import make_plans
from coinage.checks.footprint import CONTEXT, GB
from coinage.cli.main import main
from coinage.cli.train import train_command
from coinage.config import TrainConfig
from coinage.demo.worlds import MODELS
from coinage.embeddings.word import Word
from coinage.models.facts import FACTS
from coinage.training.observers.base import Observer
from coinage.training.observers.standard import observers_for
from coinage.training.run import Run
from coinage.training.session import cache_latents, train_runs
from coinage.training.setup import prepare
from tests.helpers import config_for, flags, libraries_told, rows_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
GPU, CPU = torch.device("cuda"), torch.device("cpu")
STEPS = 5


class Losses(Observer):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def stepped(self, run: Run) -> None:
        self.seen.append(run.last.loss)


def trained_on(device: torch.device, config: TrainConfig) -> tuple[Run, Word, list[float]]:
    checked = make_plans([config])[0]
    run = prepare(config, checked.samples, device)
    cache_latents([run])
    losses = Losses()
    observers = observers_for(run, checked.prompts, more=[losses])
    (word,) = train_runs([run], [observers])
    return run, word, losses.seen


def way(run: Run, word: Word) -> torch.Tensor:
    """How far and where to the word has moved, flat."""
    return (rows_of(word) - run.start[0]).flatten()


@pytest.mark.parametrize("more", [(), ("--gradient_checkpointing",), ("--fp8_base",)])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_on_a_gpu_learns_what_float32_on_a_cpu_does(
    moon_dataset: Path, tmp_path: Path, precision: str, more: tuple[str, ...]
) -> None:
    flags = ("--cache_latents", f"--max_train_steps={STEPS}")
    expected_run, expected, expected_losses = trained_on(
        CPU, config_for(moon_dataset, tmp_path / "cpu", *flags)
    )
    low = config_for(
        moon_dataset, tmp_path / "gpu", *flags, f"--mixed_precision={precision}", *more
    )
    run, word, losses = trained_on(GPU, low)
    assert all(row.is_cuda and row.dtype == torch.float32 for row in run.parts.rows())
    assert str(run.dtype) == {"fp16": "torch.float16", "bf16": "torch.bfloat16"}[precision]
    assert losses[0] == pytest.approx(
        expected_losses[0], rel=0.1 if more == ("--fp8_base",) else 0.02
    )
    moved, due = way(run, word), way(expected_run, expected)
    assert torch.isfinite(moved).all()
    assert moved.norm() > 0.01
    # AdamW's first steps go by the gradient's sign, which tiny coordinates may have either way.
    assert torch.cosine_similarity(moved, due, dim=0) > 0.9


def test_float32_on_a_gpu_is_float32_on_a_cpu(moon_dataset: Path, tmp_path: Path) -> None:
    flags = ("--cache_latents", f"--max_train_steps={STEPS}")
    ways, losses = [], []
    for device in (CPU, GPU):
        run, word, seen = trained_on(
            device, config_for(moon_dataset, tmp_path / device.type, *flags)
        )
        ways.append(way(run, word))
        losses.append(seen)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert torch.cosine_similarity(*ways, dim=0) > 0.95


@pytest.mark.parametrize("optimizer", ["AdamW", "Directional"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_step_that_is_replayed_is_a_step(
    precision: str, optimizer: str, moon_dataset: Path, tmp_path: Path
) -> None:
    flags = (
        "--cache_latents",
        f"--mixed_precision={precision}",
        f"--optimizer_type={optimizer}",
        *(["--learning_rate=0.1"] if optimizer == "Directional" else []),
        "--max_train_steps=10",
        "--gradient_accumulation_steps=2",
    )
    ways, losses = [], []
    for graphs in ("on", "off"):
        config = config_for(moon_dataset, tmp_path / graphs, *flags, f"--cuda_graphs={graphs}")
        with libraries_told(["coinage"]) as told:
            run, word, seen = trained_on(GPU, config)
        assert not [line for line in told if line.startswith("--cuda_graphs")]
        ways.append(way(run, word))
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert torch.cosine_similarity(*ways, dim=0) > 0.95


def test_the_vae_leaves_the_gpu_and_comes_back_for_previews(
    moon_dataset: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of zibu --w 64 --h 64 --s 2 --d 1\n")
    flags = (
        "--cache_latents",
        "--mixed_precision=fp16",
        f"--sample_prompts={prompts}",
        "--sample_every_n_steps=1",
    )
    run, _, losses = trained_on(GPU, config_for(moon_dataset, tmp_path, *flags))
    assert len(losses) == 3
    assert {p.device.type for p in run.parts.vae.parameters()} == {"cpu"}
    assert {p.device.type for p in run.parts.denoiser.parameters()} == {"cuda"}
    assert len(list((tmp_path / "sample").glob("*.png"))) == 3  # one that fails is told and skipped


@pytest.mark.parametrize(
    "more",
    [("--mixed_precision=bf16",), ("--mixed_precision=fp16", "--gradient_checkpointing")],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_run_ends_with_its_file_checked(
    name: str,
    more: tuple[str, ...],
    moon_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = flags(
        moon_dataset,
        tmp_path,
        f"--pretrained_model_name_or_path={MODELS / name}",
        "--max_train_steps=1",
        *more,
    )
    with libraries_told() as libraries:
        assert train_command("coinage", given) == 0
    told = capsys.readouterr().err
    assert (
        "works in AUTOMATIC1111, Forge, ComfyUI, InvokeAI, "
        "SD.Next, diffusers (prompts encode exactly as in training)" in told
    )
    assert not libraries
    file = next(tmp_path.glob("*.safetensors"))
    drawn = [
        "generate",
        str(MODELS / name),
        "a photo of zibu",
        f"--embedding={file}",
        "--width=64",
        "--height=64",
        "--steps=2",
    ]
    assert main([*drawn, f"--output={tmp_path / 'pictures'}"]) == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "most"), [("sd1", 3.0), ("sdxl", 6.0), ("sdxl", 4.0)], ids=["SD", "SDXL", "streamed"]
)
def test_a_released_model_trains_on_a_small_card(
    family: str,
    most: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model of the released size and random weights, with a preview, a measurement and the last check.

    The limit is of torch's own memory: CUDA's context comes on top of it, and is taken off here.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from random_models import RELEASED, write_dataset, write_folder

    side = FACTS[family].side
    write_folder(RELEASED / family, tmp_path / "model")
    data = write_dataset(tmp_path / "data", side)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a photo of mychar --w {side} --h {side} --s 2 --d 1\n")
    given = [
        f"--pretrained_model_name_or_path={tmp_path / 'model'}",
        f"--dataset_config={data}",
        f"--output_dir={tmp_path / 'out'}",
        "--token_string=mychar",
        "--init_word=ball",
        "--mixed_precision=bf16",
        "--max_train_steps=2",
        "--early_stop",
        "--on_problem=warn",
        f"--sample_prompts={prompts}",
        "--sample_every_n_steps=2",
        "--low_memory",
    ]
    free, total = int(most * GB), torch.cuda.mem_get_info(GPU)[1]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free - CONTEXT, free))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    torch.cuda.set_per_process_memory_fraction((free - CONTEXT) / total, GPU)
    try:
        assert train_command("coinage", given) == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    told = capsys.readouterr().err
    for wrong in ("memory is full", "GB free", "preview", "could not be checked"):
        assert wrong not in told
    assert torch.cuda.max_memory_reserved(GPU) <= free - CONTEXT
    assert list((tmp_path / "out" / "sample").glob("*.png"))
