"""Several words that share one model: each learns what it would have learned alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from coinage.checks import make_plans
from coinage.config import TrainConfig
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.errors import TrainingError
from coinage.training.loop import train, train_together
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.training.setup import prepare_all
from tests.helpers import config_for


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[TrainConfig]:
    """Three words that differ in all that a word may differ in."""
    root = tmp_path_factory.mktemp("three")
    made = []
    for concept, token, own in (
        ("moon", "zibu", ("--learning_rate=1e-2", "--train_batch_size=4", "--max_grad_norm=0.01")),
        (
            "drop",
            "wopo",
            ("--learning_rate=2e-3", "--num_vectors_per_token=2", "--init_word=circle", "--seed=3"),
        ),
        (
            "checkered",
            "kaxi",
            ("--init_word=plain", "--gradient_accumulation_steps=2", "--min_snr_gamma=5"),
        ),
    ):
        dataset = write_dataset(root / concept, CONCEPTS[concept], token, seed=0)
        toml = dataset.read_text(encoding="utf-8").replace(
            "batch_size = 4", "batch_size = 3" if token == "wopo" else "batch_size = 4"
        )
        dataset.write_text(
            toml.replace(
                "num_repeats = 10", "num_repeats = 1" if token == "wopo" else "num_repeats = 2"
            ),
            encoding="utf-8",
        )
        options = (
            f"--token_string={token}",
            "--max_train_steps=6",
            "--cache_latents",
            "--lr_scheduler=cosine",
            *own,
        )
        made.append(config_for(dataset, root / "out", *options))
    return made


def runs_of(configs: list[TrainConfig]) -> list[Run]:
    samples = [make_plans([config])[0].samples for config in configs]
    return prepare_all(configs, samples, torch.device("cpu"), [None] * len(configs))


def test_words_learn_together_what_they_learn_alone(three: list[TrainConfig]) -> None:
    alone = []
    for config in three:
        (run,) = runs_of([config])
        alone.append(train(run, []))
    runs = runs_of(three)
    together = train_together(runs, [[]] * len(runs))
    assert [word.token for word in together] == ["zibu", "wopo", "kaxi"]
    for one, other, run in zip(alone, together, runs, strict=True):
        moved = (one.vectors["emb_params"] - run.start[0]).abs().max()
        assert moved > 1e-3, "it has learned"
        torch.testing.assert_close(
            other.vectors["emb_params"], one.vectors["emb_params"], rtol=0, atol=1e-4
        )


class Diary(Observer):
    """What the loop tells."""

    def __init__(self) -> None:
        self.told = list[str]()

    def __getattribute__(self, name: str) -> Any:
        if name in {"started", "stepped", "epoch_ended", "finished", "stopped", "failed"}:
            return lambda run, *_: self.tell(name, run)
        return super().__getattribute__(name)

    def tell(self, name: str, run: Run) -> None:
        self.told.append(f"{name} {run.progress.epoch if name == 'epoch_ended' else run.step}")


def test_each_word_has_epochs_of_its_own_and_is_watched_as_alone(three: list[TrainConfig]) -> None:
    diaries = [Diary() for _ in three]
    train_together(runs_of(three), [[diary] for diary in diaries])
    for config, diary in zip(three, diaries, strict=True):
        own = Diary()
        train(runs_of([config])[0], [own])
        assert diary.told == own.told
    assert diaries[1].told == [
        "started 0",
        *("stepped 1", "stepped 2", "stepped 3", "epoch_ended 1"),
        *("stepped 4", "stepped 5", "stepped 6", "epoch_ended 2"),
        "finished 6",
    ]


def test_a_word_that_is_done_leaves_the_others_going(three: list[TrainConfig]) -> None:
    runs = runs_of(three[:2])
    runs[0].total_steps = 2
    diaries = [Diary(), Diary()]
    train_together(runs, [[diary] for diary in diaries])
    assert [run.step for run in runs] == [2, 6]
    assert [diary.told[-1] for diary in diaries] == ["finished 2", "finished 6"]


def test_a_word_that_fails_ends_all_and_all_are_told(three: list[TrainConfig]) -> None:
    class Breaks(Diary):
        def tell(self, name: str, run: Run) -> None:
            super().tell(name, run)
            if name == "stepped" and run.step == 2:
                raise ArithmeticError

    diaries = [Diary(), Breaks()]
    with pytest.raises(TrainingError, match=r"wopo: the observer .*Breaks failed in `stepped`"):
        train_together(runs_of(three[:2]), [[diary] for diary in diaries])
    assert [diary.told[-1] for diary in diaries] == ["failed 2", "failed 2"]


def test_a_prompt_with_two_words_teaches_both(three: list[TrainConfig]) -> None:
    words = []
    for more in ("", " beside a wopo"):
        runs = runs_of(three[:2])
        runs[0].samples = [
            replace(sample, caption=sample.caption + more) for sample in runs[0].samples
        ]
        words.append(train_together(runs, [[], []])[1])
    moved = (words[1].vectors["emb_params"] - words[0].vectors["emb_params"]).abs().max()
    assert moved > 1e-3, (
        "the second word learns from the first one's images too, where their captions hold it"
    )
