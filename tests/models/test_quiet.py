"""Loading a model from Python prints nothing and changes nothing in the libraries."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from safetensors.torch import save_file
from transformers.utils import logging as transformers_logging

from coinage.models.quiet import libraries_silenced
from tests.tiny_models import loaded, original_tensors

LOAD = """
import sys, torch, warnings
import diffusers, transformers
from coinage.config import ModelConfig
from coinage.models.families import FAMILIES
log = transformers.utils.logging
before = log.get_verbosity(), log.is_progress_bar_enabled(), list(warnings.filters), torch.get_num_threads()
FAMILIES[sys.argv[1]].load(ModelConfig(source=sys.argv[2], family=sys.argv[1]), torch.float32)
after = log.get_verbosity(), log.is_progress_bar_enabled(), list(warnings.filters), torch.get_num_threads()
assert before == after, (before, after)
"""


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_loading_prints_nothing_and_changes_no_settings(models: Path, family: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, family, str(models / family)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("small_configs")
def test_a_single_file_is_as_quiet(models: Path, tmp_path: Path) -> None:
    """Its parts are converted, whatever dtype they come in, and diffusers warned of that."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    path = tmp_path / "model.safetensors"
    save_file(
        {name: tensor.contiguous() for name, tensor in original_tensors("sdxl").items()}, path
    )
    library = logging.getLogger("diffusers")
    library.addHandler(handler)
    try:
        loaded("sdxl", path, models)
        assert messages == []
        make_noise = logging.getLogger("diffusers.models.modeling_utils")
        make_noise.warning("kept in float32: []")
        assert messages == ["kept in float32: []"], "afterwards the library speaks as before"
    finally:
        library.removeHandler(handler)


def test_settings_come_back_after_an_error() -> None:
    verbosity, bars = transformers_logging.get_verbosity(), are_progress_bars_disabled()
    enable_progress_bars()
    transformers_logging.enable_progress_bar()

    def fail() -> None:
        with libraries_silenced():
            assert not transformers_logging.is_progress_bar_enabled()
            assert are_progress_bars_disabled()
            raise OSError("broken")

    try:
        with pytest.raises(OSError, match="broken"):
            fail()
        assert transformers_logging.get_verbosity() == verbosity
        assert transformers_logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    finally:
        if bars:
            transformers_logging.disable_progress_bar()
