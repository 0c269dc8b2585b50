"""The inputs of steps, one step ahead where a device computes while the CPU is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from coinage.training.gradients import Ahead, SharedBatch, prepared
from coinage.training.run import Run, StepInput, leader_of


class Supply:
    """Gives each step its inputs, and prepares those of the next one while the device has its work.

    A batch that is prepared and never trained on changes nothing: each sample of each step draws
    from a generator of its own. On the CPU nothing is prepared ahead, as there is nobody to wait for.

    Args:
        runs: that share a model.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._inputs = {id(run): run.step_inputs() for run in runs}
        self._fetched: dict[int, StepInput] = {}
        self._batches: list[SharedBatch] = []
        self._made_for: object = None
        self._error: Exception | None = None

    def next(self, runs: Sequence[Run]) -> tuple[list[StepInput], Ahead | None]:
        """Return the inputs of the next step of some of the runs, and what is prepared of it.

        Raises:
            TrainingError: an epoch has no step left.
            CoinageError: an image cannot be used.
        """
        if self._error:
            raise self._error
        inputs = _for_all(runs, self._input_of)
        if runs[0].parts.device.type == "cpu":
            return inputs, None
        batches, self._batches = self._batches, []
        if not batches or self._made_for != _key(runs):
            _rewind(inputs)
            batches = list(prepared(runs, inputs))
        return inputs, Ahead(batches, partial(self._prepare_next, runs))

    def _input_of(self, run: Run) -> StepInput:
        key = id(run)
        return self._fetched.pop(key) if key in self._fetched else next(self._inputs[key])

    def _prepare_next(self, runs: Sequence[Run]) -> None:
        """Prepare the next step, unless it is in another epoch or may never come.

        What fails is raised when the step is due: the one at hand is to be counted first.
        """
        if not all(map(_has_next, runs)):
            return
        try:
            inputs = _for_all(runs, lambda run: next(self._inputs[id(run)]))
            self._fetched = {id(run): one for run, one in zip(runs, inputs, strict=True)}
            self._batches, self._made_for = list(prepared(runs, inputs)), _key(runs)
        except Exception as error:  # noqa: BLE001 - it is raised in its time
            self._error = error


def _for_all(runs: Sequence[Run], fetch: Callable[[Run], StepInput]) -> list[StepInput]:
    """Return the input of each run; words that learn together have the same one."""
    fetched: dict[int, StepInput] = {}
    inputs = []
    for run in runs:
        leader = leader_of(run, runs)
        if id(leader) not in fetched:
            fetched[id(leader)] = fetch(leader)
        inputs.append(fetched[id(leader)])
    return inputs


def _has_next(run: Run) -> bool:
    """Return whether a step follows that the device is at, in the same epoch."""
    progress = run.progress
    last_of_epoch = progress.done + 1 >= run.updates_per_epoch
    return not (last_of_epoch or run.step + 1 >= run.total_steps or progress.stop_signal)


def _key(runs: Sequence[Run]) -> object:
    """Return what prepared batches depend on beside their inputs.

    A step that was computed again in float32 may have corrected encodings that are kept.
    """
    return [(id(run), run.results.float32_steps) for run in runs]


def _rewind(inputs: Sequence[StepInput]) -> None:
    for step_input in inputs:
        for batch in step_input.batches:
            batch.rewind()
