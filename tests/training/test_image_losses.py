import json
import shutil
from pathlib import Path

import pytest

from coinage.cli.train import train_command
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.report.page import read_report
from coinage.training import image_losses as module
from coinage.training.image_losses import ImageLoss, draws_for, foreign, image_losses
from coinage.training.observers.image_ranking import ImageRanking, sentence
from tests.helpers import TAUGHT, flags, prepared, trained

ODD = 3


def one(sample: int, gain: float) -> ImageLoss:
    return ImageLoss(sample, 1.0, 1.0, gain)


@pytest.mark.parametrize(
    ("gains", "far"),
    [
        ([0.3, 0.3, 0.28, 0.31, -0.1], [4]),
        ([0.3, 0.3, 0.28, 0.31, 0.2], []),  # less, but more than half
        ([0.3, 0.1, 0.5, 0.2, 0.1], []),  # all differ
        ([0.3, 0.3, -0.2, 0.31, -0.1, 0.29, 0.3], [2, 4]),
        ([-0.1, -0.1, -0.1, -0.5], []),  # the word helps with none
        ([0.3, 0.3, -0.1], []),  # too few
        ([], []),
    ],
)
def test_an_image_stands_out(gains: list[float], far: list[int]) -> None:
    found = foreign([one(number, gain) for number, gain in enumerate(gains)])
    assert [image.sample for image in found] == far


def test_percent() -> None:
    assert one(0, 0.0).percent == 0
    assert one(0, 0.6931472).percent == pytest.approx(50)
    assert one(0, -0.6931472).percent == pytest.approx(-100)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images of a moon, one of them of another thing."""
    folder = tmp_path_factory.mktemp("mixed")
    dataset = write_dataset(folder / "a", CONCEPTS["moon"], "zibu", 0)
    write_dataset(folder / "b", CONCEPTS["checkered"], "zibu", 1)
    there, here = (sorted((folder / name / "images").glob("*.png"))[ODD] for name in "ba")
    shutil.copy(there, here)
    shutil.copy(there.with_suffix(".txt"), here.with_suffix(".txt"))
    return dataset


def test_the_image_that_does_not_belong_is_named(
    mixed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SHARE", 0.5)  # the run is too short for it otherwise
    more = ("--max_train_steps=60", "--cache_latents", "--compare_images")
    assert train_command("sd", flags(mixed, tmp_path, TAUGHT, *more)) == 0
    odd = sorted((mixed.parent / "images").glob("*.png"))[ODD].name
    assert f"the word helps least with {odd}" in capsys.readouterr().err
    lines = (tmp_path / "zibu-log.jsonl").read_text(encoding="utf-8").splitlines()
    images = json.loads(lines[-1])["images"]
    assert (len(lines), len(images), images[0]["name"]) == (61, 8, odd)
    assert images[0]["gain"] < images[1]["gain"] / 2
    record = read_report(tmp_path / "zibu-report.html")
    assert (record.images[0].name, record.images[0].marks) == (odd, ["gains least from the word"])
    assert all(image.gain is not None for image in record.images)
    assert any(odd in warning for warning in record.warnings)


def test_measuring_changes_no_row_and_no_draw(moon_dataset: Path, tmp_path: Path) -> None:
    """The word is the same, to the bit, with and without."""
    run, _ = trained(moon_dataset, tmp_path / "a", "--cache_latents")
    before = [row.detach().clone() for row in run.rows]
    first = image_losses(run, 4)
    assert first == image_losses(run, 4)
    assert all((row == old).all() for row, old in zip(run.rows, before, strict=True))
    assert [image.sample for image in first] == list(range(8))
    assert all(image.before > 0 and image.after > 0 for image in first)
    assert any(image.gain for image in first)


def test_it_takes_a_small_share_of_a_run(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path)
    draws = []
    for step in (0, 10, 100, 1000):
        run.progress.step = step
        draws.append(draws_for(run))
    # 4 images a step: 800 passes in 100 steps, a twentieth of it shared by 8 images twice over
    assert draws == [0, 0, 0, 16]


def test_a_failure_costs_nothing(
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, _ = trained(moon_dataset, tmp_path)
    monkeypatch.setattr(module, "LEAST_DRAWS", 0)
    monkeypatch.setattr(module, "SHARE", 10.0)
    run.latents = None  # type: ignore[assignment]
    ImageRanking([]).finished(run)
    assert "the images could not be compared" in caplog.text


def test_nothing_is_said_of_images_that_are_alike(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path)
    assert sentence(run, [one(number, 0.3) for number in range(8)]) == ""
