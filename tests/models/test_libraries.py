"""The model libraries are imported without what no model needs, and work as if imported plainly."""

import gc
import subprocess
import sys
from importlib.util import find_spec

import pytest

from coinage.system.garbage import not_collecting

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
TRAIN = """
import sys, gc
from coinage.cli.main import main
code = main(sys.argv[1:])
from coinage.demo.run import MODEL
heavy = [name for name in ("bitsandbytes", "sklearn", "pandas", "onnx", "torchvision") if name in sys.modules]
assert not heavy, heavy
assert gc.isenabled()
raise SystemExit(code)
"""
QUANTIZE = """
import sys, torch
from coinage.models.libraries import import_libraries
import_libraries()
from diffusers.utils import is_bitsandbytes_available
assert is_bitsandbytes_available()
assert "bitsandbytes" not in sys.modules
from diffusers import BitsAndBytesConfig
from diffusers.quantizers.bitsandbytes import replace_with_bnb_linear
with torch.device("meta"):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
replace_with_bnb_linear(model, [], quantization_config=BitsAndBytesConfig(load_in_8bit=True))
import bitsandbytes
assert isinstance(model[0], bitsandbytes.nn.Linear8bitLt), model
"""
PLAIN = """
import bitsandbytes
from coinage.models.libraries import import_libraries
import_libraries()
from diffusers.quantizers.bitsandbytes import utils
assert utils.bnb is bitsandbytes
"""


def run(code: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_training_imports_nothing_that_it_does_not_need(moon_dataset, tmp_path) -> None:
    from tests.helpers import flags

    run(TRAIN, "train", *flags(moon_dataset, tmp_path))


@pytest.mark.slow
@needs_bitsandbytes
def test_a_model_can_still_be_put_into_the_formats_of_bitsandbytes() -> None:
    run(QUANTIZE)


@pytest.mark.slow
@needs_bitsandbytes
def test_what_a_program_has_imported_is_used() -> None:
    run(PLAIN)


def test_garbage_is_collected_again() -> None:
    def fail() -> None:
        with not_collecting():
            assert not gc.isenabled()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with not_collecting():
            pass
        assert not gc.isenabled(), "as it was before"
    finally:
        gc.enable()
