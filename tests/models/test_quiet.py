"""Loading a model from Python prints nothing and changes nothing in the libraries."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging as transformers_logging

from coinage.models.quiet import libraries_silenced

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
