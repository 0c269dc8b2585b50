"""Train from checked plans to saved words, for the command line and for Python alike.

Nothing here prints, ends the process, or changes signal handlers, environment variables or the
settings of logging. Progress goes to the log named `coinage`; errors are raised.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from coinage.checks import Plan
from coinage.config import TrainConfig
from coinage.embeddings.word import Word
from coinage.errors import AlreadyReported, CoinageError
from coinage.hub import Uploader, open_uploader
from coinage.models.facts import FACTS
from coinage.models.loading_lock import LOADING_LOCK
from coinage.models.placement import give_back_memory, place
from coinage.optim.factory import OptimizerFactory
from coinage.scoring.scorer import Scorer
from coinage.terminal.messages import fact
from coinage.terminal.progress import counted
from coinage.training.final_check import check_saved_file
from coinage.training.loop import train_together
from coinage.training.losses import Loss
from coinage.training.model_check import check_model
from coinage.training.observers.base import Observer, in_order
from coinage.training.observers.notify import notify
from coinage.training.observers.reporter import Reporter
from coinage.training.observers.standard import observers_for
from coinage.training.observers.trackers import Writer, open_writers
from coinage.training.processes import Processes
from coinage.training.run import Run, leader_of
from coinage.training.scores import load_scorers
from coinage.training.search.autopilot import with_the_best
from coinage.training.search.init_word import start_from_the_best
from coinage.training.setup import Loaded, prepare_all

log = logging.getLogger("coinage")
MAX_SHOWN = 3  # latents on disk that are named if they could not be used
ObserversOf = Callable[[Run], Iterable[Observer]]
ObserversBeside = Callable[[Run, Sequence[Observer]], Iterable[Observer]]
WarningSource = Callable[[], Sequence[str]]
WhileTraining = Callable[[Sequence[Run]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class TrainedWord:
    """A word after its training.

    Attributes:
        run: as it ended; it is not `complete` if it was asked to stop.
        word: as it was after the last step.
        file: the file to use, which may be that of the best step; None for a run that was stopped.
        report: the page of the run; None if there is none, or it could not be written.
    """

    run: Run
    word: Word
    file: Path | None = None
    report: Path | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What takes the results of runs beside their files, in the main process.

    Attributes:
        uploader: to the Hugging Face hub; None without one.
        writers: the trackers of each word.
    """

    uploader: Uploader | None
    writers: Sequence[Sequence[Writer]]


def no_observers(run: Run) -> Iterable[Observer]:  # noqa: ARG001 - stands for a function of a run
    """Return no observers."""
    return ()


def nobody_beside(run: Run, observers: Sequence[Observer]) -> Iterable[Observer]:  # noqa: ARG001 - the same
    """Return no observers."""
    return ()


def not_stopping(runs: Sequence[Run]) -> AbstractContextManager[None]:  # noqa: ARG001 - the same
    """Return a context in which nothing asks the runs to stop."""
    return nullcontext()


def do_nothing(runs: Sequence[Run]) -> None:
    """Leave the runs as they are."""


@dataclass(frozen=True, slots=True)
class Followers:
    """What follows a training from outside, such as a page that shows it.

    Attributes:
        when_loaded: called with the runs when the model is loaded.
        beside: called with a run and its observers, for observers that work with these.
    """

    when_loaded: Callable[[Sequence[Run]], None] = do_nothing
    beside: ObserversBeside = nobody_beside


def train_plans(
    plans: Sequence[Plan],
    processes: Processes,
    device: torch.device,
    *,
    observers: ObserversOf = no_observers,
    warnings: WarningSource | None = None,
    when_loaded: Callable[[Sequence[Run]], None] = do_nothing,
    while_training: WhileTraining = not_stopping,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    beside: ObserversBeside = nobody_beside,
    scorers: Sequence[Scorer] = (),
    loaded: Loaded | None = None,
) -> list[TrainedWord]:
    """Train one word, or several together, and save them.

    Args:
        plans: one for each word; the first one's model is for all.
        processes: that train together.
        device: of the model.
        observers: called for the additional observers of each run.
        warnings: called for the warnings so far, which a run's page shows; None: those of the checks.
        when_loaded: called with the runs when the model is loaded.
        while_training: a context for the training loop, such as one in which signals stop the runs.
        loss: in place of the configured one.
        optimizer: makes the optimizer of a word's rows, in place of the configured one.
        beside: called with each run and all its observers, for still more of them.
        scorers: in place of the configured ones, where scores decide which word is the best.
        loaded: the model, where earlier words were trained with it.

    Raises:
        CoinageError: the training cannot start or continue; what was learned is saved.
    """
    outputs = open_outputs([plan.config for plan in plans], processes)
    scorers = scorers or load_scorers([plan.config for plan in plans], device)
    runs = prepare_runs(plans, processes, device, loss, optimizer, loaded)
    when_loaded(runs)
    runs = find_starts(runs)
    for run in runs:
        run.scorers = scorers
    watched = observe(runs, plans, outputs, observers, warnings, beside)
    words = train_runs(runs, [watch.observers for watch in watched], while_training)
    trained = []
    for run, word, watch in zip(runs, words, watched, strict=True):
        trained.append(_finish(run, word, watch.reporter))
    return trained


def open_outputs(configs: Sequence[TrainConfig], processes: Processes) -> Outputs:
    """Open the hub and the trackers of each word, before the model is loaded.

    Only the main process opens them; if it fails, all processes end.

    Raises:
        CoinageError: one does not start.
    """
    uploader: Uploader | None = None
    writers: list[Sequence[Writer]] = [() for _ in configs]
    error: CoinageError | None = None
    if processes.main:
        try:
            uploader = open_uploader(configs[0].hub)
            writers = _open_trackers(configs)
        except CoinageError as failed:
            error = failed
    if any(processes.gather(error is not None)):
        raise error or AlreadyReported()  # the main process says why
    return Outputs(uploader, writers)


def _open_trackers(configs: Sequence[TrainConfig]) -> list[Sequence[Writer]]:
    """Open the trackers of each word, under its name if there are several."""
    began = datetime.now().astimezone()
    writers: list[Sequence[Writer]] = []
    for config in configs:
        name = config.word.output_name if len(configs) > 1 else ""
        writers.append(open_writers(config.log, config.save.output_dir, name, began))
    return writers


def prepare_runs(
    plans: Sequence[Plan],
    processes: Processes,
    device: torch.device,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    loaded: Loaded | None = None,
) -> list[Run]:
    """Load the model, and make a run of each word ready for its first step or its next one.

    UNet and text encoders of a model that is loaded here stay on the CPU until `find_starts`.

    Raises:
        CoinageError: the model, a word, the captions or an optimizer do not fit.
    """
    model = plans[0].config.model
    if loaded is None:
        fact("model", f"loading {model.source} ({FACTS[model.family].display_name})")
    with LOADING_LOCK:
        return prepare_all(
            [plan.config for plan in plans],
            [plan.samples for plan in plans],
            device,
            [plan.state for plan in plans],
            processes,
            loss=loss,
            optimizer=optimizer,
            staged=True,
            loaded=loaded,
        )


def find_starts(runs: Sequence[Run]) -> list[Run]:
    """Encode the images, and find the init word and the settings of each run that asks for it.

    UNet and text encoders are moved to their device in between: encoding may need all of its memory.

    Returns:
        The runs, which are new ones if settings were tried.
    """
    cache_latents([run for run in runs if run.config.data.cache_latents])
    place(runs[0].parts)
    for run in runs:
        start_from_the_best(run)
    return with_the_best(runs)


def cache_latents(runs: Sequence[Run]) -> None:
    """Encode every image of runs that share a model once; each process encodes its share."""
    apart = [run for run in runs if leader_of(run, runs) is run]  # the others have the same latents
    for run in apart:
        _encode(run)
    if runs and len(runs) == runs[0].word_count:
        vae, device = runs[0].parts.vae, runs[0].parts.device
        vae.to("cpu")  # back on its device for each preview
        give_back_memory(device)
    for run in apart:
        for latents in run.processes.gather(run.latents.kept()):
            run.latents.keep(latents)
        _warn_of_unused(run)


def _encode(run: Run) -> None:
    total = sum(sample.latents for sample in run.samples)
    began = time.monotonic()
    with counted("encoding images", total) as on_image:
        run.latents.cache(run.config.data.vae_batch_size, on_image, run.processes.share)
    place = "on disk" if run.config.data.cache_to_disk else "in memory"
    log.debug("%d latents are %s after %.1f s", total, place, time.monotonic() - began)


def _warn_of_unused(run: Run) -> None:
    """Warn of latents on disk that could not be used."""
    recomputed = run.latents.recomputed
    if recomputed:
        first = list(recomputed.items())[:MAX_SHOWN]
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in first)
        text = "%d latents on disk could not be used and are encoded again (%s)"
        log.warning(text, len(recomputed), reasons)


@dataclass(frozen=True, slots=True)
class Watch:
    """The observers of a run in their order, and the one among them that writes its page."""

    observers: Sequence[Observer]
    reporter: Reporter | None


def observe(
    runs: Sequence[Run],
    plans: Sequence[Plan],
    outputs: Outputs,
    more: ObserversOf = no_observers,
    warnings: WarningSource | None = None,
    beside: ObserversBeside = nobody_beside,
) -> list[Watch]:
    """Return the observers of each run.

    Args:
        runs: before their first step.
        plans: one for each run.
        outputs: hub and trackers.
        more: called for the additional observers of each run.
        warnings: called for the warnings so far; None: those of the checks.
        beside: called with each run and all these observers, for still more of them.
    """
    watches = []
    for run, plan, writers in zip(runs, plans, outputs.writers, strict=True):
        reporter = _reporter_of(run, plan, warnings) if run.processes.main else None
        observers = observers_for(run, plan.prompts, writers, outputs.uploader, reporter, more(run))
        watches.append(Watch(in_order([*observers, *beside(run, observers)]), reporter))
    return watches


def _reporter_of(run: Run, plan: Plan, warnings: WarningSource | None) -> Reporter:
    texts = [str(warning) for warning in plan.warnings]
    row_count = sum(len(rows) for rows in run.start)
    source = warnings or (lambda: texts)
    return Reporter(run.config, row_count, plan.prompts, source, run.processes.count)


def train_runs(
    runs: Sequence[Run],
    observers: Sequence[Sequence[Observer]],
    while_training: WhileTraining = not_stopping,
) -> list[Word]:
    """Train runs to their end, or to where they are asked to stop, and close their observers.

    Args:
        runs: before their first step.
        observers: of each run, in order.
        while_training: a context for the training alone.

    Returns:
        The words as they are after the last step.
    """
    with ExitStack() as stack:
        for run, of_run in zip(runs, observers, strict=True):
            stack.callback(notify, of_run, "close", run)  # those of the first run come last
        with while_training(runs):
            return train_together(runs, observers, check_model)


def _finish(run: Run, word: Word, reporter: Reporter | None) -> TrainedWord:
    """Log where the word of a complete run is, and check its file in other tools."""
    if not run.complete or reporter is None:
        return TrainedWord(run, word)
    log.info("saved %s", run.config.output_file)
    checked = check_saved_file(run)
    reporter.verified(run, checked.path, checked.checks)
    if reporter.written:
        log.info("look at %s", reporter.path)
    return TrainedWord(run, word, checked.path, reporter.path if reporter.written else None)
