"""The DreamBooth protocol, on two subjects of our own with the data set's names."""

import json
from pathlib import Path

import pytest
import torch

from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.embeddings.word import Word
from tests.helpers import small_model
from tests.test_benchmarks import folder as benchmarks
from tests.tiny_models import write_clip, write_dino

__all__ = ["benchmarks"]


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    """The layout of the published data set."""
    for name, concept in {"dog6": "moon", "vase": "cup"}.items():
        made = write_dataset(tmp_path / "made" / name, CONCEPTS[concept], name, 0).parent / "images"
        (tmp_path / "dreambooth" / "dataset" / name).mkdir(parents=True)
        for image in sorted(made.glob("*.png"))[:3]:
            image.rename(tmp_path / "dreambooth" / "dataset" / name / image.name)
    (tmp_path / "dreambooth" / "dataset" / "prompts_and_classes.txt").write_text("Classes\n")
    return tmp_path / "dreambooth"


def test_the_facts_of_the_protocol(benchmarks: Path) -> None:
    from dreambooth import COUNT, LIVE, SUBJECTS

    assert benchmarks.is_dir()
    assert len(SUBJECTS) == 30
    assert sum(noun in LIVE for noun in SUBJECTS.values()) == 9
    assert len(SUBJECTS) * 25 * COUNT == 3000


def test_words_from_anywhere_and_words_trained_here(
    benchmarks: Path, subjects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dreambooth import main

    assert benchmarks.is_dir()
    words = tmp_path / "words"
    for name in ("dog6", "vase"):
        Word({"emb_params": torch.randn(1, 32)}, "sks").save(words / f"{name}.pt")
    given = [
        str(subjects), f"--model={small_model()}", f"--clip={write_clip(tmp_path / 'clip')}",
        f"--dino={write_dino(tmp_path / 'dino')}", f"--words=theirs={words}",
        "--train=ours: --max_train_steps=2 --resolution=64 --on_problem=warn",
        "--prompts=2", "--count=1", "--steps=2", f"--output={tmp_path / 'trained'}",
        f"--results={tmp_path / 'results.json'}", f"--latex={tmp_path / 'table.tex'}",
    ]  # fmt: skip
    assert main(given) == 0
    printed = capsys.readouterr()
    assert "28 subjects are missing: backpack, " in printed.err
    assert "| way | DINOv2 | CLIP-I | CLIP-T |" in printed.out
    for way in ("theirs", "ours", "the images themselves"):
        assert f"| {way}, 2 subjects | 0." in printed.out
    assert (tmp_path / "trained" / "ours" / "vase.safetensors").is_file()
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {*results["ours"]} == {"dog6", "vase"}
    assert {*results["theirs"]["dog6"]} == {"DINOv2", "CLIP-I", "CLIP-T"}
    table = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert table.count(r"\\") == 4
    assert "CLIP-T $\\uparrow$" in table
    assert main(given) == 0, "all is measured"
    assert "left" not in capsys.readouterr().err


def test_wrong_usage_is_told(benchmarks: Path, tmp_path: Path) -> None:
    from dreambooth import subjects_in, ways_of

    assert benchmarks.is_dir()
    with pytest.raises(SystemExit, match="none of the 30 subjects"):
        subjects_in(tmp_path)
    with pytest.raises(SystemExit, match="write NAME=FOLDER"):
        ways_of([], ["theirs"])
    with pytest.raises(SystemExit, match='write "NAME: flags"'):
        ways_of(["--seed=1"], [])
    assert [way.name for way in ways_of([], [])] == ["coinage train"]


def test_names_are_safe_in_latex(benchmarks: Path) -> None:
    from dreambooth import latex

    assert benchmarks.is_dir()
    results = {"a_b & 50 %": {"vase": {"DINO": 0.5}}}
    assert r"a\_b \& 50 \%, 1 subjects & 0.500 {\scriptsize (0.500 to 0.500)} \\" in latex(results)
