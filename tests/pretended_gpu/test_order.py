"""What is on a GPU when: images are encoded before UNet and text encoders come."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretended_gpu.device import built

ROOT = Path(__file__).parents[2]
START = """
import os, sys
from importlib import import_module
from pathlib import Path
from tests.pretended_gpu import device
device.load(Path(sys.argv[1]))
from tests.pretended_gpu.variants import EARLY, MODELS, write_inputs
for module, names in EARLY.items():
    for name in names:
        getattr(import_module(module), name)
import torch
from coinage.checks import make_plans
from coinage.models.quiet import quiet_libraries
from coinage.training.processes import ALONE
from coinage.training.session import find_starts, open_outputs, prepare_runs
from tests.helpers import config_for
from tests.pretended_gpu.tensors import ONLY, pretended_gpu

out = Path(sys.argv[2])
write_inputs(out)
quiet_libraries()

def prepared(*flags):
    model = f"--pretrained_model_name_or_path={MODELS / 'sd1'}"
    config = config_for(out / "data" / "dataset.toml", out, model, "--init_word=ball", *flags)
    (plan,) = make_plans([config])
    (run,) = prepare_runs([plan], ALONE, ONLY)
    plan.release()
    return run

def frozen_on(*modules):
    return {p.device.type for m in modules for p in m.parameters() if not p.requires_grad}
"""
ORDER = """
with pretended_gpu():
    for flag, encoded, left in (("--cache_latents", 8, {"cpu"}), ("--flip_aug", 0, {"cuda"})):
        run = prepared("--mixed_precision=bf16", flag)
        parts, seen = run.parts, []
        rest = (parts.denoiser, *parts.text_encoders)
        look = lambda *_: seen.append((frozen_on(parts.vae), frozen_on(*rest)))
        assert parts.device == ONLY and {row.device for row in run.rows} == {ONLY}
        with parts.vae.encoder.register_forward_pre_hook(look):
            (run,) = find_starts([run])
        assert seen == [({"cuda"}, {"cpu"})] * encoded, seen
        assert frozen_on(*rest) == {"cuda"} and parts.embeddings[0].table.is_cuda
        assert frozen_on(parts.vae) == left
        assert run.optimizer.param_groups[0]["params"][0] is run.rows[0]
os._exit(0)
"""
LOW = """
from coinage.models.bit_sums import sum_of_bits
from coinage.training.evaluation import evaluation_loss, evaluation_set
with pretended_gpu():
    losses = []
    for more in ((), ("--low_memory",)):
        run = prepared("--mixed_precision=bf16", *more)
        (run,) = find_starts([run])
        parts, sizes = run.parts, []
        see = lambda _, given, named: sizes.append(len(given[0] if given else named["sample"]))
        with parts.denoiser.register_forward_pre_hook(see, with_kwargs=True):
            losses.append(evaluation_loss(run, evaluation_set(run)))
        assert frozen_on(*(layer for e in parts.text_encoders for layer in e.modules()
                           if isinstance(layer, torch.nn.Linear))) == {"cuda"}
    assert parts.embeddings[0].table.device.type == "cpu", "only a caption's rows are copied"
    assert {row.device for row in run.rows} == {ONLY} and set(sizes) == {1}
    assert frozen_on(parts.denoiser) == {"cuda"} and frozen_on(parts.vae) == {"cpu"}
    weights = [layer.weight.dtype for module in (parts.denoiser, *parts.text_encoders)
               for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    assert set(weights) == {torch.int8}
    assert abs(losses[1] / losses[0] - 1) < 0.03, losses
    assert sum_of_bits([parts.embeddings[0].table, *run.rows]) == sum_of_bits(
        [parts.embeddings[0].table]) + sum_of_bits(run.rows), "the watchdog sums them up together"
os._exit(0)
"""
VAE = """
with pretended_gpu():
    # The settings of the released model say so; a card without bf16 takes float32
    for upcast, wide, expected in ((False, True, torch.float16), (True, True, torch.bfloat16),
                                   (True, False, torch.float32)):
        torch.cuda.is_bf16_supported = lambda including_emulation=True: wide
        from coinage.models import placement
        from coinage.models.families import FAMILIES
        from coinage.config import ModelConfig
        parts = FAMILIES["sd1"].load(ModelConfig(source=str(MODELS / "sd1")), torch.float16)
        parts.vae.register_to_config(force_upcast=upcast)
        parts.home = ONLY
        placement.place_vae(parts)
        assert {p.dtype for p in parts.vae.parameters()} == {expected}
        assert frozen_on(parts.vae) == {"cuda"} and frozen_on(parts.denoiser) == {"cpu"}
os._exit(0)
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(ORDER, id="order", marks=pytest.mark.pretended),
        pytest.param(LOW, id="low memory", marks=pytest.mark.slow),
        pytest.param(VAE, id="VAE", marks=pytest.mark.slow),
    ],
)
def test_what_is_on_the_gpu(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + script, str(built()), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
