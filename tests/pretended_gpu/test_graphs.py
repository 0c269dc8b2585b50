"""A step that is replayed as a CUDA graph does what it does without one, to the bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coinage.training.graphs import MOST
from tests.pretended_gpu.recorded import SPOILED, STEPS
from tests.pretended_gpu.test_steps import seen_by

REFUSED = "--cuda_graphs: goes on without graphs: waits for the GPU: "
LAUNCHED = 100  # kernels of a step that is replayed, which are a thousand and more without


def check(both: Sequence[dict[str, Any]], *, replayed: int = STEPS) -> dict[str, Any]:
    """See that a run with graphs is one without, and return it.

    Args:
        both: the two runs.
        replayed: steps of the run, counted from 0, before which the last ones were replayed.
    """
    graphs, eager = both
    assert graphs["learned"] == eager["learned"]
    assert graphs["error"] == eager["error"]
    refused = [line for line in eager["told"] if line.startswith("--cuda_graphs")]
    assert len(refused) == 1, "told once"
    assert refused[0].startswith(REFUSED)
    assert [line for line in eager["told"] if line not in refused] == graphs["told"]
    assert all(not replays for _, _, replays in eager["costs"])
    kernels, waits, replays = zip(*graphs["costs"][2:replayed], strict=True)
    assert set(waits) == {1}
    assert min(replays) >= 2, "the gradient and the update"
    assert max(kernels) < LAUNCHED
    return graphs


@pytest.mark.pretended
def test_a_replayed_step_is_a_step(tmp_path: Path) -> None:
    seen = seen_by(["graphs alone", "recorded: sd1 bf16"], tmp_path)
    check(seen["recorded: sd1 bf16"])
    alone = seen["graphs alone"]
    assert all(alone["results"])
    assert alone["replays"] == [3, 0, *[1] * (MOST - 1), 0, 2]
    assert alone["total"] == [len(alone["results"])] * 2, "recording changes nothing"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_family_and_optimizer(family: str, tmp_path: Path) -> None:
    names = [f"recorded: {family} bf16", f"recorded: {family} bf16 Directional"]
    if family == "sdxl":
        names += ["recorded: sdxl bf16 checkpointed", "recorded: sdxl fp16"]
    seen = seen_by(names, tmp_path)
    for name in names:
        assert check(seen[name])["learned"][0]["step"] == STEPS


@pytest.mark.slow
def test_every_way_to_train(tmp_path: Path) -> None:
    names = [
        "sd1 bf16 accumulated",
        "sd1 bf16 clip",
        "sd1 bf16 text kept",
        "sd1 bf16, two words",
        "sd1 fp16, two words",
        "sd1 bf16, measured",
        "sd1 bf16, drawn",
    ]
    seen = seen_by([f"recorded: {name}" for name in names], tmp_path)
    runs = {name: seen[f"recorded: {name}"] for name in names}
    for name in names[:3]:
        check(runs[name])
    for name in names[3:5]:
        first, second = runs[name][0]["learned"]
        assert first["rows"] != second["rows"]
        assert runs[name][0]["learned"] == runs[name][1]["learned"]
        # The end of a step is noted for each word; both are in each recording
        assert [replays for _, _, replays in runs[name][0]["costs"][-2:]] == [2, 0]
    for recorded, eager in (runs[name] for name in names[5:]):
        assert recorded["learned"] == eager["learned"]
        assert sum(replays for _, _, replays in recorded["costs"]) == 2 * STEPS - 3
        assert recorded["pictures"] == eager["pictures"]
    assert len(set(recorded["pictures"])) == STEPS, "one of each step, as the word was then"


@pytest.mark.slow
def test_a_step_that_is_not_finite(tmp_path: Path) -> None:
    names = ["recorded: sd1 fp16, unet", "recorded: sd1 fp16, gradient", "recorded: sd1 bf16, loss"]
    seen = seen_by(names, tmp_path)
    unet = check(seen[names[0]], replayed=SPOILED)
    assert unet["learned"][0]["again"] == 1
    assert unet["costs"][SPOILED + 1][2] == 0, "the weights were in float32, and are elsewhere now"
    gradient = check(seen[names[1]], replayed=SPOILED)
    assert gradient["learned"][0]["scale"] == 2**15, "half of what it was"
    assert gradient["costs"][SPOILED + 1][2] == 2
    loss = check(seen[names[2]], replayed=SPOILED)
    assert "the loss of step 4 is nan" in loss["error"]
    assert loss["learned"][0]["step"] == SPOILED


@pytest.mark.slow
def test_a_run_with_graphs_goes_on_anywhere(tmp_path: Path) -> None:
    names = ["resumed: sd1 bf16", "resumed: sdxl bf16 Directional"]
    seen = seen_by(names, tmp_path)
    for name in names:
        run = seen[name]
        assert run["whole"] == run["resumed"]
        assert max(run["replays"]) == 2
        assert run["steps"] == [STEPS + 2, STEPS + 4], "on the CPU, and on a GPU again"
        assert not run["capturable"]
    assert seen[names[1]]["count"] == str(STEPS), "a plain number, as without graphs"
