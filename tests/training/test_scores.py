"""The word is kept where its pictures score highest."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import coinage
from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.embeddings.reading import read
from coinage.errors import ConfigError
from coinage.scoring.prompts import Asked
from coinage.scoring.scorer import Pixels, Scores
from coinage.settings.discover import complete
from coinage.training.run import Run
from coinage.training.scores import by_scores
from tests.helpers import captured, config_for, flags, rows_of, small_model, trained
from tests.tiny_models import write_clip, write_dino
from tests.training.test_processes import free_port, run, torchrun

EVERY = ("--validate_every_n_steps=2", "--max_train_steps=5", "--sample_every_n_steps=0")


class Scripted:
    """Scores in turn as it is told; it keeps what it was asked."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)
        self.asked: list[Sequence[Asked]] = []
        self.references = 0

    def score(
        self, pictures: Sequence[Pixels], asked: Sequence[Asked], references: Sequence[Pixels]
    ) -> Scores:
        self.asked.append(asked)
        self.references = len(references)
        return Scores(fidelity={"told": [self.values.pop(0)] * len(pictures)})


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red {}\n", encoding="utf-8")
    return path


def scored(dataset: Path, out: Path, scorer: object, *more: str) -> Run:
    config = by_scores(config_for(dataset, out, *EVERY, *more))

    def give(run: Run) -> None:
        run.scorers = [scorer]  # type: ignore[list-item]

    return trained(dataset, out, config=config, change=give)[0]


def test_the_highest_score_is_kept(
    moon_dataset: Path, tmp_path: Path, prompts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Scripted(0.2, 0.7, 0.7)
    given = (f"--score_prompts={prompts}", "--save_every_n_steps=1")
    with caplog.at_level("INFO", "coinage"):
        run = scored(moon_dataset, tmp_path, scorer, *given)
    assert run.results.scores == pytest.approx({2: 0.2, 4: 0.7, 5: 0.7})
    assert not run.results.measurements, "no loss is measured for it"
    best = read(tmp_path / "zibu-best.safetensors")
    assert torch.equal(rows_of(best), rows_of(read(tmp_path / "zibu-step00000004.safetensors")))
    assert best.metadata["ti.step"] == "4"
    assert float(best.metadata["ti.score"]) == pytest.approx(0.7)
    assert "ti.evaluation_loss" not in best.metadata
    assert "highest score at step 4 (0.7000), saved as zibu-best.safetensors" in caplog.text
    assert [one.plain for one in scorer.asked[0]] == ["a red shape"]
    assert scorer.references == 8, "the training images"


@pytest.mark.slow
def test_a_run_that_goes_on_remembers(moon_dataset: Path, tmp_path: Path, prompts: Path) -> None:
    given = (f"--score_prompts={prompts}", "--save_every_n_steps=3", "--save_state")
    whole = scored(moon_dataset, tmp_path / "a", Scripted(0.7, 0.6, 0.5), *given)
    state = tmp_path / "a" / "zibu-step00000003-state"
    config = by_scores(config_for(moon_dataset, tmp_path / "b", *EVERY, *given))
    config = replace(config, state=replace(config.state, resume=str(state)))
    again, _ = trained(
        moon_dataset,
        tmp_path / "b",
        config=config,
        change=lambda run: setattr(run, "scorers", [Scripted(0.6, 0.5)]),
    )
    assert again.results.scores == whole.results.scores
    assert again.results.best
    assert whole.results.best
    assert again.results.best.step == whole.results.best.step == 2
    assert torch.equal(again.results.best.rows[0], whole.results.best.rows[0])
    plain, _ = trained(moon_dataset, tmp_path / "plain", *EVERY)
    for scored_run in (whole, again):
        assert torch.equal(scored_run.rows[0], plain.rows[0]), "scoring changes nothing else"
    names = [f"{folder}/zibu-best.safetensors" for folder in "ab"]
    first, second = (read(tmp_path / name) for name in names)
    assert torch.equal(rows_of(first), rows_of(second))


def test_from_python_and_a_scorer_that_fails(
    moon_dataset: Path, tmp_path: Path, prompts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(moon_dataset, tmp_path, *EVERY, f"--score_prompts={prompts}")
    word = coinage.train(config, scorers=[Scripted(0.3)])
    assert word.step == 5, "the run goes on"
    assert "could not be scored at step 4: pop from empty list" in caplog.text
    assert coinage.load_word(tmp_path / "zibu-best.safetensors").step == 2


def test_by_clip_and_dino(moon_dataset: Path, tmp_path: Path, prompts: Path) -> None:
    clip, dino = write_clip(tmp_path / "clip"), write_dino(tmp_path / "dino")
    given = flags(moon_dataset, tmp_path / "out", *EVERY[:1], "--max_train_steps=3")
    given += [f"--score_clip={clip}", f"--score_dino={dino}", f"--score_prompts={prompts}"]
    done = captured(lambda: train_command("coinage", [*given, "--keep_best", "scores"]))
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"step \d: score 0\.\d+ \(CLIP-I .*DINOv2 .*CLIP-T .*\)", done.stderr)
    assert len(lines) == 2
    assert "ti.score" in read(tmp_path / "out" / "zibu-best.safetensors").metadata
    page = (tmp_path / "out" / "zibu-report.html").read_text(encoding="utf-8")
    assert "--keep_best=scores" in page, "the command that repeats it"


def test_what_is_wrong_is_told_before_the_model_is_loaded(
    moon_dataset: Path, tmp_path: Path
) -> None:
    given = flags(moon_dataset, tmp_path / "out", "--keep_best=scores")
    with pytest.raises(ConfigError, match="--keep_best scores needs what scores"):
        complete(parse("sd", given, "test"))
    with pytest.raises(ConfigError, match="it is for the negative one"):
        complete(parse("sd", [*given, "--score_clip=a/b", "--role=negative"], "test"))
    given += ["--score_clip=no/such/folder/here", f"--score_dino={small_model()}"]
    config = complete(parse("sd", [*given, "--score_prompts=nothing"], "test"))[0]
    with pytest.raises(ConfigError) as failed:
        make_plans([config])
    told = [problem.what for problem in failed.value.problems]
    assert told[0] == "--score_clip: no such folder, and not a hub id"
    assert told[1].startswith("--score_dino: ")
    assert told[2] == "--score_prompts: no such set, and no such file"


@pytest.mark.parametrize(
    ("given", "kept", "by"),
    [
        ((), False, "loss"),
        (("--keep_best",), True, "loss"),
        (("--keep_best", "loss"), True, "loss"),
        (("--keep_best=scores",), True, "scores"),
        (("--keep_best", "scores"), True, "scores"),
        (("--early_stop",), True, "loss"),
        (("--early_stop", "--keep_best", "Scores"), True, "scores"),
    ],
)
def test_ways_to_say_it(
    given: Sequence[str], kept: bool, by: str, moon_dataset: Path, tmp_path: Path
) -> None:
    save = config_for(moon_dataset, tmp_path, "--score_clip=a/b", *given).save
    assert (save.keep_best, save.best_by) == (kept, by)
    file = tmp_path / "settings.toml"
    values = {True: "true", False: "false"}
    text = values.get(kept, "true") if by == "loss" else '"scores"'
    if "--early_stop" not in given:
        file.write_text(f"keep_best = {text}\n", encoding="utf-8")
        again = config_for(moon_dataset, tmp_path, "--score_clip=a/b", f"--config_file={file}")
        assert again.save == save


def test_other_words_are_refused(moon_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--keep_best score must be true or false or scores"):
        config_for(moon_dataset, tmp_path, "--keep_best=score")


@pytest.mark.slow
def test_two_processes_score_as_one_does(moon_dataset: Path, tmp_path: Path, prompts: Path) -> None:
    """Each draws its share of the pictures."""
    clip = write_clip(tmp_path / "clip")
    given = ("--keep_best=scores", f"--score_clip={clip}", f"--score_prompts={prompts}", *EVERY)
    words = [*given, "--cache_latents"]
    one = flags(moon_dataset, tmp_path / "one", *words, "--train_batch_size=4")
    told = [captured(lambda: train_command("coinage", one)).stderr]
    start = [*torchrun(f"--master_port={free_port()}"), "-m", "coinage.cli.main", "train"]
    told.append(run([*start, *flags(moon_dataset, tmp_path / "two", *words)]))
    first, second = (re.findall(r"step \d: score (\S+)", text) for text in told)
    assert len(first) == len(second) == 3
    for step, score in zip(second, first, strict=True):
        assert float(step) == pytest.approx(float(score), abs=2e-2)
