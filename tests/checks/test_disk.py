"""Whether the disk has room for what a run writes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from coinage.checks import make_plans
from coinage.checks.disk import disk_problems, saves, written
from coinage.cli.train import train_command
from tests.helpers import TAUGHT, config_for, flags, trained

Fill = Callable[[int], None]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Leave so many bytes free on every disk."""
    return lambda free: monkeypatch.setattr(
        shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, free)
    )


def test_a_full_disk_is_a_warning_before_training(
    moon_dataset: Path, tmp_path: Path, leave: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(
        moon_dataset,
        tmp_path / "o",
        "--cache_latents_to_disk",
        f"--cache_dir={tmp_path / 'c'}",
        "--dry_run",
    )
    assert train_command("sd", given) == 0
    assert "the disk has" not in capsys.readouterr().err
    leave(10_000)
    assert train_command("sd", given) == 0
    text = capsys.readouterr().err
    assert "warning: the run writes about 28 kB, but the disk has only 10 kB free" in text
    assert text.count("the disk has") == 1
    assert f"--> {tmp_path / 'c'}" in text
    assert "--cache_latents to keep latents in memory" in text


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ((), 1),
        (("--keep_best",), 2),
        (("--early_stop",), 2),
        (("--save_every_n_steps=1",), 4),
        (("--save_every_n_steps=1", "--keep_best"), 5),
    ],
)
def test_the_best_one_is_counted_too(
    more: tuple[str, ...], count: int, moon_dataset: Path, tmp_path: Path
) -> None:
    assert saves(config_for(moon_dataset, tmp_path, *more), 3, 1) == count


def test_many_states_are_counted(moon_dataset: Path, tmp_path: Path, leave: Fill) -> None:
    config = config_for(
        moon_dataset,
        tmp_path / "o",
        "--save_state",
        "--save_every_n_steps=1",
        "--max_train_steps=3000",
    )
    samples = make_plans([config])[0].samples
    leave(2**20)
    (problem,) = disk_problems((config, samples))
    assert problem.where == str(tmp_path / "o")
    assert "or save less often" in problem.hint
    leave(2**30)
    assert not disk_problems((config, samples))


def test_what_is_written_is_at_most_what_was_told(
    moon_dataset: Path, tmp_path: Path, leave: Fill
) -> None:
    cache, out = tmp_path / "c", tmp_path / "o"
    given = (
        "--save_state",
        "--save_every_n_steps=1",
        "--cache_latents_to_disk",
        f"--cache_dir={cache}",
        "--flip_aug",
    )
    config = config_for(moon_dataset, out, TAUGHT, *given)
    samples = make_plans([config])[0].samples
    told = written(config, samples)
    trained(moon_dataset, out, config=config)
    # The demo's VAE makes latents of twice the side, of four times the pixels.
    for folder, times in ((cache, 4), (out, 1)):
        size = sum(
            path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and path.suffix not in (".jsonl", ".html")
        )
        assert told[folder] / 4 < size / times <= told[folder]
    leave(told[cache] // 2)
    config_without_states = config_for(moon_dataset, out, *given[2:])
    assert not disk_problems((config_without_states, samples)), "the latents are there already"
    shutil.rmtree(cache)
    assert disk_problems((config_without_states, samples))


def test_latents_beside_the_images(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path / "o", "--cache_latents_to_disk")
    folders = set(written(config, make_plans([config])[0].samples))
    assert folders == {tmp_path / "o", moon_dataset.parent / "images" / ".coinage" / "latents"}


def test_a_disk_that_does_not_tell_is_no_matter(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(shutil, "disk_usage", fail)
    config = config_for(moon_dataset, tmp_path / "o")
    assert not disk_problems((config, make_plans([config])[0].samples))
