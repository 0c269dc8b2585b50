"""The demo's score tells a right trainer from a wrong one (minutes; `make test-slow`)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from coinage.cli.parse import parse
from coinage.config import WordConfig
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.run import WordModel
from coinage.demo.score import passes_gate, score, trials
from coinage.demo.worlds import MODELS
from coinage.models.base import Components
from coinage.settings.discover import complete
from coinage.training.run import Run
from tests.helpers import flags, trained

pytestmark = pytest.mark.slow


def scores(
    concept: str, tmp_path: Path, change: Callable[[Run], None] | None = None, family: str = "sd1"
) -> tuple[float, float]:
    """S and E after the demo's training, `change` having tampered with the trainer."""
    found = CONCEPTS[concept]
    dataset = write_dataset(tmp_path, found, "zibu", seed=0)
    options = (
        "--max_train_steps=300",
        f"--init_word={found.init_word}",
        "--cache_latents",
        "--on_problem=warn",
    )  # judged by what it learns
    model = [
        f"--pretrained_model_name_or_path={MODELS / family}",
        *(["--v2"] if family == "sd2" else []),
    ]
    words = flags(dataset, tmp_path / "out", *options, *model)
    config, _ = complete(parse("sdxl" if family == "sdxl" else "sd", words, "test"))
    trained(dataset, tmp_path / "out", change=change, config=config)
    tried = trials(found, "zibu", 48, 0, family)
    word = WordConfig(token="zibu", init_file=tmp_path / "out" / "zibu.safetensors")
    return score(
        tried,
        WordModel(MODELS / family, family).draw(word, [t.prompt for t in tried], lambda: None),
    )


def without_scaling(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    def change(_run: Run) -> None:
        monkeypatch.setattr(Components, "scaling_factor", 1.0)

    return change


def wrong_target(_monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.parts.schedule = replace(run.parts.schedule, prediction_type="v_prediction")

    return change


def captions_without_the_word(_monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        run.samples = [
            replace(sample, caption=sample.caption.replace("zibu", "shape"))
            for sample in run.samples
        ]

    return change


Fault = Callable[[pytest.MonkeyPatch], Callable[[Run], None]]


def gate(folder: Path, change: Callable[[Run], None] | None = None) -> list[tuple[float, float]]:
    return [
        scores(concept, folder / concept, change)
        for concept in ("moon", "red-striped-cross", "blue-dotted-star")
    ]


def test_the_right_trainer_passes(tmp_path: Path) -> None:
    found = gate(tmp_path)
    assert passes_gate(found), found


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_other_worlds_pass(family: str, tmp_path: Path) -> None:
    found = [
        scores(concept, tmp_path / concept, family=family)
        for concept in ("moon", "red-striped-cross", "blue-dotted-star")
    ]
    assert passes_gate(found), found


@pytest.mark.parametrize("fault", [without_scaling, wrong_target, captions_without_the_word])
def test_a_wrong_trainer_fails(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gate(tmp_path, fault(monkeypatch))
    assert not passes_gate(found), found
