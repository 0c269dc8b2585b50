"""Coinage as a library."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coinage
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.worlds import MODELS
from coinage.seeding import rng_for
from tests.helpers import config_for, small_model

QUIET = ("--sample_every_n_epochs=0",)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, time, coinage; print('torch' in sys.modules, time.process_time(), *dir(coinage))"
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        has_torch, spent, *names = done.stdout.split()
        assert has_torch == "False"
        assert set(coinage.__all__) <= set(names)
        seconds.append(float(spent))
    alone = [sys.executable, "-c", "import time; print(time.process_time())"]
    python = float(subprocess.run(alone, capture_output=True, text=True, check=True).stdout)
    assert min(seconds) - python < 0.1


def test_every_public_name_is_there_and_documented() -> None:
    for name in coinage.__all__:
        value = getattr(coinage, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        coinage.trian  # noqa: B018 - the lookup is the test


@contextmanager
def unchanged(*apart_from: str) -> Iterator[None]:
    """See that a block leaves what belongs to the whole process as it was."""
    log = logging.getLogger("coinage")

    def state() -> dict[str, Any]:
        return {
            "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
            "environment": dict(os.environ),
            "log": (list(log.handlers), log.level, list(log.filters), log.propagate),
            "root": (list(logging.root.handlers), logging.root.level),
            "warnings": list(warnings.filters),
            "threads": torch.get_num_threads(),
            "grad": torch.is_grad_enabled(),
            "torch": torch.get_rng_state().tolist(),
            "numpy": repr(np.random.get_state()),  # noqa: NPY002 - the global one is meant
            "python": random.getstate(),
            "hook": (sys.excepthook, threading.excepthook),
        }

    before = state()
    yield
    after = state()
    for name in set(before) - set(apart_from):
        assert after[name] == before[name], name


def test_training_prints_nothing_and_changes_nothing_around_it(
    moon_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = config_for(moon_dataset, tmp_path, "--cache_latents", "--sample_every_n_steps=2")
    capfd.readouterr()  # the model was written
    with unchanged():
        word = coinage.train(config)
    assert capfd.readouterr() == ("", "")
    assert (word.token, word.step, word.num_vectors) == ("zibu", 3, 1)
    saved = coinage.load_word(tmp_path / "zibu.safetensors")
    assert torch.equal(saved.vectors["emb_params"], word.vectors["emb_params"])
    assert (tmp_path / "zibu-report.html").is_file()


def test_a_training_in_a_plain_interpreter_prints_nothing(
    moon_dataset: Path, tmp_path: Path
) -> None:
    """Without pytest's handlers: warnings of the log, and the libraries' bars, stay away."""
    code = "import coinage, sys; coinage.train(coinage.TrainConfig.from_toml(sys.argv[1]))"
    settings = config_for(moon_dataset, tmp_path, "--learning_rate=1e-6").to_toml()
    file = tmp_path / "settings.toml"
    file.write_text(settings, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "zibu.safetensors").is_file()


def test_two_trainings_in_two_threads_do_not_know_of_each_other(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    seeds = (1, 2)
    flags = ("--cache_latents", "--max_train_steps=4")

    def train(folder: Path, seed: int) -> None:
        coinage.train(config_for(moon_dataset, folder, *flags, f"--seed={seed}"))

    for seed in seeds:
        train(tmp_path / f"alone{seed}", seed)
    with unchanged("warnings"):  # Python's own catch_warnings is not for threads
        threads = [
            threading.Thread(target=train, args=(tmp_path / f"beside{seed}", seed))
            for seed in seeds
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    words = []
    for seed in seeds:
        words.append((tmp_path / f"alone{seed}" / "zibu.safetensors").read_bytes())
        assert (tmp_path / f"beside{seed}" / "zibu.safetensors").read_bytes() == words[-1]
    assert words[0] != words[1]


def test_words_are_trained_together_and_each_observer_hears_of_both(
    moon_dataset: Path, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "banded", CONCEPTS["banded"], "wopo", seed=0)
    first = config_for(moon_dataset, tmp_path)
    second = config_for(dataset, tmp_path, "--token_string=wopo", "--output_name=wopo")
    steps = Steps()
    words = coinage.train([first, second], observers=[steps])
    assert [word.token for word in words] == ["zibu", "wopo"]
    assert steps.seen == [(word, step) for step in (1, 2, 3) for word in ("zibu", "wopo")]
    assert steps.ends == ["finished", "finished", "closed", "closed"]
    assert (tmp_path / "wopo.safetensors").is_file()
    wrong = replace(second, word=replace(second.word, token="circle"))
    with pytest.raises(coinage.ConfigError, match="circle is already in the model's vocabulary"):
        coinage.train([first, wrong])
    assert len(coinage.train([first])) == 1, "the names are free again"


class Steps(coinage.Observer):
    """Remembers the steps of each word, and how the run ended."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.ends: list[str] = []

    def stepped(self, run: coinage.Run) -> None:
        self.seen.append((run.placeholder.token, run.step))

    def finished(self, run: coinage.Run) -> None:  # noqa: ARG002 - the observers' name
        self.ends.append("finished")

    def stopped(self, run: coinage.Run) -> None:  # noqa: ARG002 - the same
        self.ends.append("stopped")

    def failed(self, run: coinage.Run, error: Exception) -> None:  # noqa: ARG002 - the same
        self.ends.append(f"failed: {type(error).__name__}")

    def close(self, run: coinage.Run) -> None:  # noqa: ARG002 - the same
        self.ends.append("closed")


class Breaks(coinage.Observer):
    """Raises in its second step, and once more when it is told that the run has failed."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def stepped(self, run: coinage.Run) -> None:
        if run.step == 2:
            raise self._error

    def failed(self, run: coinage.Run, error: Exception) -> None:  # noqa: ARG002 - the same
        raise ValueError("and again")


def test_an_observer_that_raises_ends_the_run_by_its_name_and_nothing_is_lost(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps()
    message = r"the observer Breaks failed in `stepped`: KeyError: 'loss'\nhint: correct .*Breaks"
    with pytest.raises(coinage.TrainingError, match=message):
        coinage.train(
            config_for(moon_dataset, tmp_path / "a"), observers=[Breaks(KeyError("loss")), steps]
        )
    assert (tmp_path / "a" / "zibu-step00000002.safetensors").is_file()
    assert steps.ends == ["failed: TrainingError", "closed"]
    assert any("failed in `failed`: ValueError: and again" in text for text in caplog.messages)
    with pytest.raises(coinage.CoinageError, match=r"^enough$") as caught:
        coinage.train(
            config_for(moon_dataset, tmp_path / "b"),
            observers=[Breaks(coinage.CoinageError("enough"))],
        )
    assert type(caught.value) is coinage.CoinageError
    assert (tmp_path / "b" / "zibu-step00000002-state" / "state.json").is_file()


def test_an_interrupted_training_saves_its_word(moon_dataset: Path, tmp_path: Path) -> None:
    class Interrupts(coinage.Observer):
        def stepped(self, run: coinage.Run) -> None:
            if run.step == 2:
                raise KeyboardInterrupt

    steps = Steps()
    with pytest.raises(KeyboardInterrupt):
        coinage.train(config_for(moon_dataset, tmp_path), observers=[Interrupts(), steps])
    assert (tmp_path / "zibu-step00000002.safetensors").is_file()
    assert (tmp_path / "zibu-step00000002-state" / "state.json").is_file()
    assert steps.ends == ["stopped", "closed"]


def test_observers_are_called_in_the_order_of_their_priority(
    moon_dataset: Path, tmp_path: Path
) -> None:
    order: list[str] = []

    class Named(coinage.Observer):
        def __init__(self, name: str, priority: int) -> None:
            self.name, self.priority = name, priority

        def finished(self, run: coinage.Run) -> None:
            there = run.config.output_file.is_file()
            order.append(f"{self.name} {'after' if there else 'before'} the file")

    own = [Named("last", 2000), Named("user", coinage.Priority.USER), Named("first", -1)]
    coinage.train(config_for(moon_dataset, tmp_path), observers=own)
    assert order == ["first before the file", "user after the file", "last after the file"]


def test_a_loss_and_an_optimizer_of_ones_own(moon_dataset: Path, tmp_path: Path) -> None:
    def halved(inputs: coinage.LossInputs) -> torch.Tensor:
        return (inputs.prediction - inputs.target).pow(2).mean(dim=(1, 2, 3)) / 2

    class Losses(coinage.Observer):
        def __init__(self) -> None:
            self.losses: list[float] = []

        def stepped(self, run: coinage.Run) -> None:
            assert isinstance(run.optimizer, torch.optim.SGD)
            self.losses.append(run.last.loss)

    whole, half = Losses(), Losses()

    def sgd(rows: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(rows, lr=1e-6)

    config = config_for(moon_dataset, tmp_path, "--max_train_steps=2")
    coinage.train(config, observers=[whole], optimizer=sgd)
    coinage.train(config, observers=[half], optimizer=sgd, loss=halved)
    assert half.losses[0] == pytest.approx(whole.losses[0] / 2)


def test_a_run_that_is_asked_to_stop_returns_its_word_and_can_go_on(
    moon_dataset: Path, tmp_path: Path
) -> None:
    class Stops(coinage.Observer):
        def stepped(self, run: coinage.Run) -> None:
            if run.step == 1:
                run.request_stop(signal.SIGTERM)

    steps = Steps()
    config = config_for(moon_dataset, tmp_path)
    word = coinage.train(config, observers=[Stops(), steps])
    assert word.step == 2
    assert steps.ends == ["stopped", "closed"]
    again = replace(config, state=replace(config.state, resume="latest"))
    assert coinage.train(again).step == 3


def test_checking_raises_nothing_and_holds_nothing(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path)
    assert not coinage.check(config).errors
    assert not coinage.check(config).errors, "the name is free again"
    wrong = replace(config, word=replace(config.word, token="wobo"))
    (problem,) = coinage.check(wrong).errors
    assert "no caption contains the word wobo" in problem.what


def test_a_model_draws_what_it_was_taught(moon_dataset: Path, tmp_path: Path) -> None:
    word = coinage.train(config_for(moon_dataset, tmp_path))
    rng = rng_for(0, "test").random()
    with unchanged():
        model = coinage.load_model(small_model())
        assert model.install(word) == "zibu"
        assert model.install(tmp_path / "zibu.safetensors", token="zibu2b") == "zibu2b"
        assert list(model.words) == ["zibu", "zibu2b"]
        pictures = model.generate(["zibu", "a circle"], steps=2, size=64, seed=3)
        (again,) = model.generate("zibu2b", steps=2, size=(64, 64), seed=3)
        conditioning = model.encode(["zibu", "zibu2b", "a circle"])
    assert rng_for(0, "test").random() == rng
    assert [picture.size for picture in pictures] == [(64, 64), (64, 64)]
    assert np.array_equal(pictures[0], again), "the same word under two names"
    assert not np.array_equal(*pictures)
    hidden = conditioning.encoder_hidden_states
    assert hidden.shape[:2] == (3, 77)
    assert torch.equal(hidden[0], hidden[1])
    assert not hidden.requires_grad
    assert repr(model).endswith("sd1 on cpu, words zibu, zibu2b)")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: model.generate("a", sampler="eulr"),
            "sampler: 'eulr'.*\nhint: did you mean",
        ),
        (lambda model: model.generate("a", steps=0), "steps: 0 is too small"),
        (lambda model: model.generate("a", size=8), "size: 8 is too small"),
        (lambda model: model.install(coinage.Word({"emb_params": torch.ones(1, 32)})), "no name"),
        (
            lambda model: model.install(coinage.Word({"emb_params": torch.ones(1, 32)}, "circle")),
            "already in the model's vocabulary",
        ),
        (
            lambda model: model.install(coinage.Word({"emb_params": torch.ones(1, 768)}, "zibu")),
            "768",
        ),
    ],
)
def test_mistakes_with_a_model(call: Any, message: str) -> None:
    model = coinage.load_model(small_model())
    with pytest.raises(coinage.CoinageError, match=message):
        call(model)
    assert not model.words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "nowhere/at/all"}, "nowhere"),
        ({"source": MODELS / "sd1", "family": "sd15"}, "family: 'sd15'.*\nhint: did you mean"),
        ({"source": MODELS / "sd1", "precision": "fp8"}, "precision: 'fp8'.*\nhint: "),
        ({"source": MODELS / "sd1", "prediction_type": "v"}, "prediction_type: 'v'"),
    ],
)
def test_a_model_that_cannot_be_loaded(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(coinage.ConfigError, match=message):
        coinage.load_model(**arguments)
