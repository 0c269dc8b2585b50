"""Mistakes in calls of the Python API: each is named in one of Coinage's errors."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coinage
from tests.helpers import config_for, small_model

OTHER = torch.nn.Parameter(torch.zeros(3))


def squared_error(inputs: coinage.LossInputs) -> torch.Tensor:
    return (inputs.prediction - inputs.target).square().mean(dim=(1, 2, 3))


class Named(coinage.Observer):
    priority = "first"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": 3}, "config: an object of type int is not a TrainConfig"),
        ({"config": None}, "config: None is not a TrainConfig"),
        ({"config": "a.toml"}, "config: an object of type str is not a TrainConfig"),
        ({"config": {"token_string": "a"}}, "config: an object of type str is not a TrainConfig"),
        ({"config": []}, "config: the sequence is empty"),
        ({"observers": None}, "observers: None is not an observer"),
        ({"observers": [3]}, "observers: an object of type int is not an observer"),
        ({"observers": [coinage.Observer]}, "Observer is a class\nhint: .*Observer()"),
        ({"observers": coinage.Observer()}, r"stands alone\nhint: give a list"),
        ({"observers": [Named()]}, "the priority 'first' .*is not a number"),
        ({"loss": "l1"}, "loss: an object of type str cannot be called"),
        ({"loss": []}, "loss: an object of type list cannot be called"),
        ({"optimizer": torch.optim.SGD([OTHER], 1)}, "optimizer: .*SGD cannot be called"),
        ({"optimizer": lambda _: None}, "returned NoneType, not an optimizer"),
        ({"optimizer": lambda _: 1 / 0}, "failed: ZeroDivisionError: division by zero"),
        ({"optimizer": lambda: None}, "failed: TypeError"),
        ({"optimizer": lambda _: torch.optim.SGD([OTHER], 1)}, "an optimizer of other parameters"),
    ],
)
def test_arguments_that_are_something_else(
    arguments: dict[str, Any], message: str, moon_dataset: Path, tmp_path: Path
) -> None:
    config = config_for(moon_dataset, tmp_path)
    with pytest.raises(coinage.ConfigError, match=message):
        coinage.train(**{"config": config, **arguments})
    assert not [*tmp_path.glob("*.safetensors")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": lambda _: 1 / 0}, "failed: ZeroDivisionError: division by zero"),
        ({"loss": lambda inputs: inputs.timesteps}, "has no attribute 'timesteps'"),
        ({"loss": lambda inputs: squared_error(inputs).detach()}, "numbers without a gradient"),
        ({"loss": lambda inputs: squared_error(inputs).long()}, "returned torch.int64"),
        ({"loss": lambda inputs: squared_error(inputs) + 0j}, "returned torch.complex64"),
        ({"loss": lambda inputs: squared_error(inputs).to("meta")}, "a tensor on meta"),
        ({"loss": lambda inputs: squared_error(inputs) * math.nan}, "the loss of step 1 is nan"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS failed: TypeError"),
        ({"optimizer": torch.optim.SparseAdam}, "SparseAdam failed: RuntimeError"),
    ],
)
def test_a_loss_or_an_optimizer_that_fails_in_the_run(
    arguments: dict[str, Any], message: str, moon_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(coinage.TrainingError, match=message):
        coinage.train(config_for(moon_dataset, tmp_path), **arguments)


def test_the_error_of_a_loss_is_the_cause(moon_dataset: Path, tmp_path: Path) -> None:
    config = config_for(moon_dataset, tmp_path)
    with pytest.raises(coinage.TrainingError) as caught:
        coinage.train(config, loss=lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(coinage.TrainingError, match=r"^my own words$"):
        coinage.train(config, loss=_own_error)


def _own_error(inputs: coinage.LossInputs) -> torch.Tensor:
    raise coinage.TrainingError("my own words")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "the values are of type NoneType, not a mapping"),
        ([("seed", 1)], "the values are of type list, not a mapping"),
        ({3: 4}, "the key 3 is not a text"),
        ({"weights": "\ud800"}, "characters that no file name can have"),
    ],
)
def test_values_that_are_not_a_mapping_of_names(values: Any, message: str) -> None:
    with pytest.raises(coinage.ConfigError, match=message):
        coinage.TrainConfig.from_mapping(values)
    for script in (3, None, []):
        with pytest.raises(coinage.ConfigError, match="there is no script"):
            coinage.TrainConfig.from_mapping({}, script=script)  # type: ignore[arg-type]


def test_numbers_of_numpy_and_torch_are_numbers(moon_dataset: Path, tmp_path: Path) -> None:
    values = {
        "pretrained_model_name_or_path": small_model(),
        "dataset_config": moon_dataset,
        "output_dir": tmp_path,
        "token_string": "zibu",
        "init_word": "shape",
    }
    plain = {"seed": 3, "learning_rate": 0.5, "cache_latents": True, "resolution": [64, 64]}
    arrays = {
        "seed": np.int64(3),
        "learning_rate": torch.tensor(0.5),
        "cache_latents": np.bool_(True),
        "resolution": np.array([64, 64]),
    }
    config = coinage.TrainConfig.from_mapping({**values, **arrays})
    assert config == coinage.TrainConfig.from_mapping({**values, **plain})
    assert "seed = 3\n" in config.to_toml()


@pytest.mark.parametrize(
    "call",
    [
        lambda word: coinage.TrainConfig.from_toml(None),  # type: ignore[arg-type]
        lambda word: coinage.TrainConfig.list_from_toml(3),  # type: ignore[arg-type]
        lambda word: coinage.load_word(b"a.pt"),  # type: ignore[arg-type]
        lambda word: word.save(None),
        lambda word: coinage.load_model(small_model()).install(3),  # type: ignore[arg-type]
    ],
)
def test_paths_that_are_none(call: Callable[[coinage.Word], object]) -> None:
    with pytest.raises(coinage.ConfigError, match="is not a path\nhint: give a text or a"):
        call(coinage.Word({"emb_params": torch.ones(1, 32)}, "zibu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "foo"}, "device: 'foo' cannot be used"),
        ({"device": "xpu:7"}, "device: 'xpu:7' cannot be used"),
        ({"clip_skip": "2"}, "clip_skip: '2' is not a whole number"),
        ({"clip_skip": 0}, "clip_skip: 0 is too small"),
    ],
)
def test_settings_of_a_model(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(coinage.ConfigError, match=message):
        coinage.load_model(small_model(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": 3}, "prompts: an object of type int is not a text"),
        ({"prompts": ["a", None]}, "prompts: an object of type NoneType is not a text"),
        ({"steps": "2"}, "steps: '2' is not a whole number"),
        ({"steps": 1001}, "steps: 1001 is too large"),
        ({"guidance": math.nan}, "guidance: nan is too small"),
        ({"size": 64.5}, "size: 64.5 is not a whole number"),
        ({"size": (64,)}, r"size: \(64,\) is neither a side nor"),
        ({"size": (64, None)}, "size: None is not a whole number"),
        ({"seed": -1}, "seed: -1 is too small"),
        ({"seed": 10**30}, "seed: 1000.* is too large"),
        ({"batch_size": 0}, "batch_size: 0 is too small"),
        ({"sampler": []}, r"sampler: \[\] is not known"),
    ],
)
def test_settings_of_pictures(arguments: dict[str, Any], message: str) -> None:
    model = coinage.load_model(small_model())
    with pytest.raises(coinage.ConfigError, match=message):
        model.generate(**{"prompts": "a", **arguments})


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "a word needs a mapping"),
        (None, "a word needs a mapping"),
        ({"emb_params": [[1.0]]}, "emb_params: an object of type list is not a tensor"),
        ({"emb_params": np.ones((1, 32))}, "an object of type ndarray is not a tensor"),
        ({"emb_params": torch.ones(32)}, r"a tensor of shape \[32\] does not hold vectors"),
        ({"emb_params": torch.ones(0, 32)}, r"a tensor of shape \[0, 32\] does not hold"),
        ({"emb_params": torch.ones(1, 32).long()}, "torch.int64 is not a type of floating"),
    ],
)
def test_a_word_of_something_else(vectors: Any, message: str) -> None:
    with pytest.raises(coinage.ConfigError, match=message):
        coinage.Word(vectors, "zibu")


def test_tokens_are_texts() -> None:
    rows = {"emb_params": torch.ones(1, 32)}
    with pytest.raises(coinage.ConfigError, match="token: an object of type int is not a text"):
        coinage.Word(rows, 3)  # type: ignore[arg-type]
    with pytest.raises(coinage.ConfigError, match="token: an object of type int is not a text"):
        coinage.load_model(small_model()).install(coinage.Word(rows), 3)  # type: ignore[arg-type]


def test_words_that_cannot_be_saved(tmp_path: Path) -> None:
    rows = {"emb_params": torch.ones(1, 32)}
    word = coinage.Word(rows, "zibu")
    with pytest.raises(coinage.ConfigError, match="precision: 'fp8' is not known\nhint: use one"):
        word.save(tmp_path / "zibu.pt", precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(coinage.CoinageError, match="the path is too long"):
        word.save(tmp_path / f"{'z' * 300}.safetensors")
    with pytest.raises(coinage.ConfigError, match="metadata: names and values must be texts"):
        coinage.Word(rows, metadata={"a": 3})  # type: ignore[dict-item]
    with pytest.raises(coinage.ConfigError, match="step: an object of type str is not a whole"):
        coinage.Word(rows, step="3")  # type: ignore[arg-type]
