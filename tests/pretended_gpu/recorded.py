"""Train on the pretended GPU with steps that are recorded as graphs, and with steps that are not.

A recording must not be refused, must change nothing, and must have done the steps that recur.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

STEPS, WARM_UPS = 5, 1
SPOILED = 3  # counted from 0: a step that is replayed, where steps are recorded


def spoiled_batch(kind: str) -> Callable[..., Any]:
    """A way to make a batch whose step overflows in half precision: in the UNet, or in the gradient.

    It is in the numbers, since a graph does not see what Python changes.
    """
    from coinage.training import run

    real = run.epoch_batch

    def spoiled(owner: Any, planned: Any, latents: Any, epoch: int, step: int) -> Any:
        batch = real(owner, planned, latents, epoch, step)
        if step != SPOILED:
            return batch
        if kind == "unet":
            return replace(batch, moments=batch.moments * 1e5)
        return replace(batch, weights=batch.weights * (1e35 if kind == "gradient" else math.nan))

    return spoiled


@contextmanager
def noted(gpu: Any, marks: list[tuple[int, ...]]) -> Iterator[None]:
    """Note what each step has cost: kernels, waits and replays."""
    from coinage.training.loop import Learner

    before, real = [gpu.kernels, gpu.waits.total(), gpu.replays], Learner.end_step

    def end_step(learner: Any) -> None:
        now = [gpu.kernels, gpu.waits.total(), gpu.replays]
        marks.append(tuple(b - a for a, b in zip(before, now, strict=True)))
        real(learner)
        before[:] = gpu.kernels, gpu.waits.total(), gpu.replays

    with patch.object(Learner, "end_step", end_step):
        yield


def waits_in_the_unet(run: Any) -> None:
    """Have the UNet do what no graph may hold."""

    def hook(_: Any, __: Any, output: Any) -> None:
        output.sum().item()

    run.parts.denoiser.conv_out.register_forward_hook(hook)


def trained(
    gpu: Any, runs: Sequence[Any], *, records: bool = True, spoil: str = "", previews: Any = ()
) -> dict[str, Any]:
    """Train runs; without `records`, something in the model refuses to be recorded."""
    from coinage.errors import TrainingError
    from coinage.training import graphs, run
    from coinage.training.loop import train_together
    from coinage.training.observers.standard import observers_for
    from tests.helpers import libraries_told

    if not records:
        waits_in_the_unet(runs[0])
    marks: list[tuple[int, ...]] = []
    error = ""
    with ExitStack() as stack:
        stack.enter_context(patch.object(graphs, "WARM_UPS", WARM_UPS))
        told = stack.enter_context(libraries_told(["coinage"]))
        stack.enter_context(noted(gpu, marks))
        if spoil:
            stack.enter_context(patch.object(run, "epoch_batch", spoiled_batch(spoil)))
        try:
            watching = [observers_for(one, previews) if previews else [] for one in runs]
            train_together(runs, watching)
        except TrainingError as caught:
            error = str(caught)
    return {"costs": marks, "told": told, "learned": [learned(run) for run in runs], "error": error}


def learned(run: Any) -> dict[str, Any]:
    """What must be the same, to the bit."""
    return {
        "rows": [row.tolist() for row in run.rows_to_save()],
        "moments": [
            {
                name: value.tolist() if hasattr(value, "tolist") else value
                for name, value in s.items()
            }
            for s in run.optimizer.state.values()
        ],
        "scale": run.scaler.get_scale(),
        "step": run.step,
        "again": run.results.float32_steps,
        "loss": run.last.loss,
        "norm": run.last.grad_norm,
        "bands": run.last.bands,
        "touched": [flags.tolist() for flags in run.last.touched],
    }


def both_ways(gpu: Any, out: Path, name: str, trouble: str = "") -> list[dict[str, Any]]:
    """A run whose steps are recorded, and the same where recording is refused."""
    from coinage.text.prompts import Prompt
    from tests.pretended_gpu.steps import runs_of

    words = 2 if trouble == "two words" else 1
    more = ["--cuda_graphs=on", f"--max_train_steps={STEPS}"]
    if trouble == "measured":
        more += ["--validation_split=0.25", "--validate_every_n_steps=1", "--keep_best"]
    previews = []
    if trouble == "drawn":
        more.append("--sample_every_n_steps=1")
        previews = [Prompt(text="a zibu", width=64, height=64, steps=2, seed=1, sampler="ddim")]
    spoil = trouble if trouble in ("unet", "gradient", "loss") else ""
    found = []
    for records in (True, False):
        runs = runs_of(out, name, *more, words=words)
        found.append(trained(gpu, runs, records=records, spoil=spoil, previews=previews))
        pictures = sorted(out.glob("made/sample/*.png"))
        found[-1]["pictures"] = [picture.read_bytes().hex() for picture in pictures]
        for picture in pictures:
            picture.unlink()
    return found


def resumed(gpu: Any, out: Path, name: str) -> dict[str, Any]:
    """A run without a stop, and one that goes on from a state, on the GPU and on the CPU."""
    import torch

    from coinage.training.state import load_state, save_state
    from tests.pretended_gpu.steps import runs_of

    def run_of(steps: int, *more: str, device: str = "cuda") -> Any:
        flags = ["--cuda_graphs=on", f"--max_train_steps={steps}", *more]
        return runs_of(out, name, *flags, device=device)[0]

    whole, first, second = run_of(STEPS + 2), run_of(STEPS), run_of(STEPS + 2)
    through = trained(gpu, [whole])
    trained(gpu, [first])
    save_state(first, out / "state")
    load_state(second, out / "state")
    on = trained(gpu, [second])
    saved = torch.load(out / "state" / "state.pt", weights_only=True, map_location="meta")
    on_cpu = run_of(STEPS + 2, device="cpu")
    load_state(on_cpu, out / "state")
    trained(gpu, [on_cpu])
    save_state(on_cpu, out / "state")
    again = run_of(STEPS + 4)
    load_state(again, out / "state")
    trained(gpu, [again])
    optimizer = saved["optimizer"]
    return {
        "whole": through["learned"],
        "resumed": on["learned"],
        "replays": [costs[2] for costs in on["costs"]],
        "capturable": optimizer["param_groups"][0].get("capturable", False),
        "count": str(optimizer["state"][0]["step"]),
        "steps": [on_cpu.step, again.step],
    }


def alone(gpu: Any) -> dict[str, Any]:
    """`Graphs` by itself: what it records, what it replays, and when it begins anew."""
    import torch

    from coinage.training.graphs import MOST, WARM_UPS, Graphs

    layer = torch.nn.Linear(3, 2).to("cuda")
    graphs = Graphs([layer], torch.device("cuda"))
    total = torch.zeros(2, device="cuda")
    seen: dict[str, Any] = {"results": [], "replays": []}

    def work(inputs: Sequence[Any]) -> Any:
        result = layer(inputs[0]).detach() + total
        total.add_(1)
        return result

    def times(layout: object, number: int) -> int:
        """Do it some times; how often it was replayed."""
        before = gpu.replays
        for _ in range(number):
            x = torch.rand(1, 3, generator=generator).to("cuda")
            expected = (layer(x) + total).detach().cpu()
            with graphs.apart():
                given = graphs.do(layout, work, [x])
            seen["results"].append(bool(torch.equal(given.cpu(), expected)))
        return gpu.replays - before

    generator = torch.Generator().manual_seed(0)
    graphs.begin([])
    seen["replays"].append(times("a", WARM_UPS + 3))
    seen["replays"].append(times(None, WARM_UPS + 3))
    seen["replays"] += [times(number, WARM_UPS + 1) for number in range(MOST)]
    layer.weight.data = layer.weight.data + 1
    graphs.begin([])
    seen["replays"].append(times("a", WARM_UPS + 2))
    return {**seen, "total": total.tolist()}
