"""The training command: sd-scripts' command line, run by Coinage."""

from __future__ import annotations

import logging
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from coinage import __version__
from coinage.cli.console import exit_code_of, set_up_log
from coinage.cli.parse import parse, write_config
from coinage.errors import CoinageError
from coinage.system.launch import process_count
from coinage.terminal.messages import WarningCollector, fact, print_line, print_result, print_text

if TYPE_CHECKING:
    import torch

    from coinage.checks.plan import Plan
    from coinage.config import TrainConfig
    from coinage.settings.flag_values import FlagValues
    from coinage.training.observers.base import Observer
    from coinage.training.processes import Processes
    from coinage.training.run import Run
    from coinage.training.session import Followers

log = logging.getLogger("coinage")


def train_command(
    script: str,
    argv: Sequence[str] | None = None,
    prog: str = "train_textual_inversion.py",
    followers: Callable[[], Followers] | None = None,
) -> int:
    """Parse a command line, check it, and train.

    Args:
        script: "sd", "sdxl" or "coinage".
        argv: the words after the program's name; None: those of this process.
        prog: the program's name, for messages.
        followers: called before the model is loaded, for what follows the training.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _traced(parse(script, words, prog), followers))


def _traced(values: FlagValues, followers: Callable[[], Followers] | None) -> None:
    """Train; with `--verbose`, print the traceback of an error for the user too."""
    try:
        _train(values, followers)
    except CoinageError:
        if values.verbose:
            print_text(traceback.format_exc(), "stderr")
        raise


def _train(values: FlagValues, followers: Callable[[], Followers] | None) -> None:
    if values.output_config:
        print_line(f"wrote {write_config(values)}")
        return
    from coinage.checks import make_plans
    from coinage.checks.plan import released
    from coinage.cli.plan import print_head, print_plan
    from coinage.cli.words import build_words, print_findings, show_datasets

    configs, labels = build_words(values)
    settings = configs[0].log
    if values.share == "words" and not values.debug_dataset:
        from coinage.cli.sharing import share_words

        share_words(values, configs, labels, followers)
        return
    set_up_log(settings.level, settings.file, simple=settings.simple, live=not settings.quiet)
    if values.debug_dataset:
        show_datasets(configs, labels, values.debug_dataset_out)
        return
    plans = make_plans(configs, labels, seed=_shared_seed(configs, values.ddp_timeout))
    with released(plans):
        print_findings(plans)
        print_head(plans)
        if values.dry_run:
            print_plan(plans)
            return
        for plan in plans:
            plan.start()
        run_training(plans, values.ddp_timeout, followers() if followers else None)


def _shared_seed(configs: Sequence[TrainConfig], timeout: int | None) -> int | None:
    """Draw a seed for all processes; None if there is one process, or a seed is given."""
    from coinage.config import OPEN_SEED

    is_open = any(config.loop.seed == OPEN_SEED for config in configs)
    if not is_open or process_count() == 1:
        return None
    from coinage.training.processes import start_processes

    return start_processes(timeout)[0].shared_seed()


def run_training(
    plans: Sequence[Plan], timeout: int | None = None, followers: Followers | None = None
) -> None:
    """Join the processes of the run, and train its words. Everything heavy is imported here.

    Args:
        plans: one for each word.
        timeout: minutes that processes wait for each other; None: as torch does.
        followers: what follows the training beside the progress on the terminal.
    """
    from coinage.training.processes import start_processes

    processes, device = start_processes(timeout)
    train_on(plans, processes, device, followers)


def train_on(
    plans: Sequence[Plan],
    processes: Processes,
    device: torch.device,
    followers: Followers | None = None,
    before: Run | None = None,
) -> Run:
    """Load the model, train its words, save.

    Args:
        plans: one for each word.
        processes: that train together.
        device: of the model.
        followers: what follows the training beside the progress on the terminal.
        before: a run whose model is used again.

    Returns:
        The run of the first word, which is complete.
    """
    from coinage.cli.progress import progress_observers
    from coinage.cli.signals import stopping
    from coinage.models.quiet import quiet_libraries
    from coinage.training.session import Followers, train_plans

    followers = followers or Followers()
    quiet_libraries()
    plans = _fitted_like(plans, before) if before else _fitted(plans, processes, device)

    def observers(run: Run) -> Sequence[Observer]:
        shows_progress = processes.main and run.word_index == 0
        return progress_observers() if shows_progress else ()

    def when_loaded(runs: Sequence[Run]) -> None:
        _use_model(runs, plans[0].state)
        followers.when_loaded(runs)

    known = [str(warning) for plan in plans for warning in plan.warnings]
    with WarningCollector(known) as collector:
        trained = train_plans(
            plans,
            processes,
            device,
            observers=observers,
            warnings=lambda: collector.texts,
            when_loaded=when_loaded,
            while_training=stopping,
            beside=followers.beside,
            loaded=(before.parts, before.dtype) if before else None,
        )
    runs = [word.run for word in trained]
    if not all(run.complete for run in runs):
        sys.exit(128 + runs[0].progress.stop_signal)
    for run in runs:
        if run.processes.main and run.config.log.quiet:
            print_result(str(run.config.output_file))
    return runs[0]


def _fitted(plans: Sequence[Plan], processes: Processes, device: torch.device) -> Sequence[Plan]:
    """Return plans with what saves memory turned on where it must be, and say so."""
    from coinage.checks.memory import fitted, free_memory, free_memory_problem

    free = [size for size in processes.gather(free_memory(device)) if size is not None]
    plans, lines = fitted(plans, min(free, default=None))
    for line in lines if processes.main else ():
        log.info("%s", line)
    if processes.main and (problem := free_memory_problem(plans, device)):
        log.warning("%s", problem)
    return plans


def _fitted_like(plans: Sequence[Plan], before: Run) -> Sequence[Plan]:
    """Return plans that save memory as a run before them did, with whose model they go on."""
    from coinage.settings.low_memory import in_low_memory

    model = before.config.model
    if not model.low_memory:
        return plans
    configs = [in_low_memory(plan.config, streamed=model.streamed)[0] for plan in plans]
    return [replace(plan, config=config) for plan, config in zip(plans, configs, strict=True)]


def _use_model(runs: Sequence[Run], state: Path | None) -> None:
    """Fit this process to the model, and show what it runs on."""
    from coinage.models.process_fit import fit_process

    fit_process(runs[0].parts)
    show_loaded(runs[0], state)


def show_loaded(run: Run, state: Path | None) -> None:
    """Show what the model runs on and how, and where the run continues.

    Args:
        run: with the model.
        state: that it continues from; None for a new run.
    """
    import torch

    device = run.parts.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    fact("device", f"{str(run.dtype).removeprefix('torch.')} on {name}")
    if run.processes.count > 1:
        fact("", f"{run.processes.count} processes, each with its share of every step")
    if run.step:
        others = ", and likewise the other words" if run.word_count > 1 else ""
        fact("state", f"continuing after step {run.step} from {state}{others}")
    packages = ("torch", "diffusers", "transformers", "accelerate")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    system = f"Python {platform.python_version()} on {platform.platform()}"
    log.debug("coinage %s, %s, %s", __version__, versions, system)
    settings = {**run.optimizer.param_groups[0]}
    del settings["params"]
    log.debug("%s: %s", type(run.optimizer).__name__, settings)
