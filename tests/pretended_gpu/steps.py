"""Take training steps on the pretended GPU. Usage: `python -m tests.pretended_gpu.steps OUT NAME...`.

A process of its own, as for `variants`. Writes what it has seen to OUT/steps.json.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.pretended_gpu import device, recorded
from tests.pretended_gpu.variants import EARLY, MODELS, write_inputs

STEPS = 4
MEASURED = 2  # the step before the last one, counted from 0: it has all that a step has
FLAGS = {
    "sd1 bf16": ("sd1", "--mixed_precision=bf16"),
    "sdxl fp16": ("sdxl", "--mixed_precision=fp16"),
    "sd2 float32": ("sd2",),
    "sd1 bf16 checkpointed": ("sd1", "--mixed_precision=bf16", "--gradient_checkpointing"),
    "sdxl bf16 fp8": ("sdxl", "--mixed_precision=bf16", "--fp8_base"),
    "sd2 bf16": ("sd2", "--mixed_precision=bf16"),
    "sd2 bf16 Directional": ("sd2", "--mixed_precision=bf16", "--optimizer_type=Directional"),
    "sdxl bf16": ("sdxl", "--mixed_precision=bf16"),
    "sdxl bf16 Directional": ("sdxl", "--mixed_precision=bf16", "--optimizer_type=Directional"),
    "sdxl bf16 checkpointed": ("sdxl", "--mixed_precision=bf16", "--gradient_checkpointing"),
    "sd1 fp16": ("sd1", "--mixed_precision=fp16"),
    "sd1 bf16 Directional": ("sd1", "--mixed_precision=bf16", "--optimizer_type=Directional"),
    "sd1 fp16 Lion": ("sd1", "--mixed_precision=fp16", "--optimizer_type=Lion"),
    "sd1 bf16 clip": ("sd1", "--mixed_precision=bf16", "--norm_mode=clip"),
    "sd1 bf16 accumulated": ("sd1", "--mixed_precision=bf16", "--gradient_accumulation_steps=2"),
    "sd1 bf16 text kept": ("sd1", "--mixed_precision=bf16", "--cache_text_encoder_outputs"),
}


def runs_of(out: Path, name: str, *more: str, words: int = 1, device: str = "cuda") -> list[Any]:
    """Runs that are ready, on the pretended GPU or on the CPU."""
    import torch

    from coinage.checks import make_plans
    from coinage.cli.parse import parse
    from coinage.settings.discover import complete
    from coinage.training.session import cache_latents
    from coinage.training.setup import prepare_all
    from tests.helpers import flags

    family, *given = FLAGS[name]
    configs = []
    for number in range(words):
        argv = flags(
            out / ["data", "more"][number] / "dataset.toml",
            out / "made",
            f"--pretrained_model_name_or_path={MODELS / family}",
            *(["--v2"] if family == "sd2" else []),
            f"--max_train_steps={STEPS}",
            "--cache_latents",
            f"--token_string={['zibu', 'wopo'][number]}",
            *given,
            *more,
        )
        configs.append(complete(parse("coinage", argv, "test"))[0])
    plans = [make_plans([config])[0] for config in configs]
    runs = prepare_all(
        configs, [plan.samples for plan in plans], torch.device(device), [None] * words
    )
    cache_latents(runs)
    return runs


def trained(runs: Sequence[Any]) -> list[Any]:
    """Train runs; return their words."""
    from coinage.training.loop import train_together

    return train_together(runs, [[] for _ in runs])


def costs(gpu: Any, out: Path, name: str) -> dict[str, Any]:
    """Waits and kernels of a step."""
    from coinage.training.loop import Learner

    runs, marks, real = runs_of(out, name), [], Learner.end_step

    def end_step(learner: Any) -> None:
        marks.append((dict(gpu.waits), gpu.kernels))
        real(learner)

    with patch.object(Learner, "end_step", end_step):
        trained(runs)
    (before, started), (after, ended) = marks[MEASURED - 1 : MEASURED + 1]
    waited = {str(key): count - before.get(key, 0) for key, count in after.items()}
    return {
        "waits": sum(waited.values()),
        "kernels": ended - started,
        "where": [key for key, count in waited.items() if count],
    }


def without_waiting(gpu: Any, out: Path, name: str) -> dict[str, Any]:
    """Whether everything from the first encoding to the optimizer's step goes without a wait."""
    from coinage.training import updates
    from coinage.training.supply import Supply

    runs = runs_of(out, name, "--cuda_graphs=on")
    supply, recorder = Supply(runs), updates.recorder_for(runs)
    for _ in range(2):
        inputs, ahead = supply.next(runs)
        updates.step_and_check(runs, inputs, ahead, recorder)
    inputs, ahead = supply.next(runs)
    undo: list[Any] = []
    with gpu.no_waits(), patch.object(updates, "read", lambda vectors: vectors):
        updates._stepped(runs, inputs, ahead, undo, recorder)
    return {"refused": False}


def spoiled(kind: str) -> Callable[[Any], None]:
    """Something that goes wrong in one step."""
    import torch

    def unet(run: Any) -> None:
        def hook(_: Any, __: Any, output: Any) -> Any:
            return output * torch.inf if run.step == 1 and output.dtype.itemsize == 2 else output

        run.parts.denoiser.conv_out.register_forward_hook(hook)

    def gradient(steps: Sequence[int]) -> Callable[[Any], None]:
        def change(run: Any) -> None:
            run.rows[0].register_hook(lambda g: g * torch.inf if run.step in steps else g)

        return change

    return {"unet": unet, "first gradients": gradient([0, 2]), "gradient": gradient([2])}[kind]


def undone(out: Path, name: str, kind: str, *more: str) -> Iterator[dict[str, Any]]:
    """A run in which a step goes wrong, with steps that are undone and with steps that are not taken."""
    from coinage.errors import TrainingError
    from coinage.training import updates

    for classes in (updates.CAN_BE_UNDONE, ()):
        (run,) = runs_of(out, name, *more)
        spoiled(kind)(run)
        error = ""
        with patch.object(updates, "CAN_BE_UNDONE", classes):
            try:
                trained([run])
            except TrainingError as caught:
                error = str(caught)
        yield {
            "rows": [row.tolist() for row in run.rows_to_save()],
            "moments": [
                state["exp_avg" if "exp_avg" in state else "mean"].cpu().tolist()
                for state in run.optimizer.state.values()
            ],
            "step": run.step,
            "again": run.results.float32_steps,
            "error": error,
        }


def sampled(gpu: Any, family: str, sampler: str) -> int:
    """Waits that a step of sampling adds to a preview."""
    import torch

    from coinage.config import ModelConfig
    from coinage.generate import draw
    from coinage.models.families import FAMILIES
    from coinage.models.placement import load_unplaced, place
    from coinage.text.prompts import Prompt

    config = ModelConfig(source=str(MODELS / family), family=family, precision="bf16")
    parts, dtype = load_unplaced(config, torch.device("cuda"))
    place(parts)
    parts.install([], [])
    waits = []
    for steps in (3, 4):
        gpu.reset()
        prompt = Prompt(text="a ball", width=64, height=64, steps=steps, seed=1, sampler=sampler)
        autocast = torch.autocast("cuda", dtype)
        (_,) = draw(FAMILIES[family], parts, [prompt], autocast=autocast)
        waits.append(gpu.waits.total())
    return waits[1] - waits[0]


def main(out: Path, names: Sequence[str]) -> None:
    """Do what is asked for, and write what was seen."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    device.load(device.built())
    for module, names_in_it in EARLY.items():
        for name in names_in_it:
            getattr(import_module(module), name)
    from tests.pretended_gpu.tensors import pretended_gpu

    write_inputs(out)
    seen: dict[str, Any] = {}
    for name in names:
        with pretended_gpu() as gpu:
            kind, _, rest = name.partition(": ")
            if kind == "costs":
                seen[name] = costs(gpu, out, rest)
            elif kind == "no waits":
                seen[name] = without_waiting(gpu, out, rest)
            elif kind == "recorded":
                seen[name] = recorded.both_ways(gpu, out, *rest.split(", "))
            elif kind == "resumed":
                seen[name] = recorded.resumed(gpu, out, rest)
            elif kind == "graphs alone":
                seen[name] = recorded.alone(gpu)
            elif kind == "sampling":
                seen[name] = sampled(gpu, *rest.split())
            else:
                case, _, trouble = rest.partition(", ")
                seen[name] = list(undone(out, case, trouble))
    (out / "steps.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    os._exit(0)  # autograd's thread for the device does not end with Python
