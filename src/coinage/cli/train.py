"""The training command: sd-scripts' command line, run by Coinage."""

from __future__ import annotations

import logging
import platform
import random
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from coinage import __version__
from coinage.cli.console import exit_code_of, set_up_log
from coinage.cli.parse import parse, write_config
from coinage.errors import AlreadyReported, CoinageError
from coinage.system.launch import process_count
from coinage.terminal.messages import fact, print_line, print_result, print_text

if TYPE_CHECKING:
    from coinage.checks.plan import Plan
    from coinage.config import TrainConfig
    from coinage.hub import Uploader
    from coinage.settings.flag_values import FlagValues
    from coinage.training.observers.base import Observer
    from coinage.training.observers.reporter import Reporter
    from coinage.training.observers.trackers import Writer
    from coinage.training.processes import Processes
    from coinage.training.run import Run

log = logging.getLogger("coinage")


def train_command(
    script: str, argv: Sequence[str] | None = None, prog: str = "train_textual_inversion.py"
) -> int:
    """Parse, check, train. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _traced(parse(script, words, prog)))


def _traced(values: FlagValues) -> None:
    """Train; with `--verbose`, an error for the user has its traceback too. A fault of ours has it always."""
    try:
        _train(values)
    except CoinageError:
        if values.verbose:
            print_text(traceback.format_exc(), "stderr")
        raise


def _train(values: FlagValues) -> None:
    if values.output_config:
        print_line(f"wrote {write_config(values)}")
        return
    from coinage.checks import make_plans
    from coinage.cli.plan import print_head, print_plan
    from coinage.cli.words import build_words, print_findings, show_datasets

    configs, labels = build_words(values)
    settings = configs[0].log
    set_up_log(settings.level, settings.file, simple=settings.simple, live=not settings.quiet)
    if values.debug_dataset:
        show_datasets(configs, labels, values.debug_dataset_out)
        return
    plans = make_plans(configs, labels, seed=_shared_seed(configs, values.ddp_timeout))
    with ExitStack() as stack:
        for plan in plans:
            stack.callback(plan.release)
        print_findings(plans)
        print_head(plans)
        if values.dry_run:
            print_plan(plans)
            return
        for plan in plans:
            plan.start()
        run_training(plans, values.ddp_timeout)


def _shared_seed(configs: Sequence[TrainConfig], timeout: int | None) -> int | None:
    """Draw a seed that all processes have; None where there is one process, or a seed is given."""
    from coinage.config import OPEN_SEED

    is_open = any(config.loop.seed == OPEN_SEED for config in configs)
    if not is_open or process_count() == 1:
        return None
    from coinage.training.processes import start_processes

    return start_processes(timeout)[0].gather(random.SystemRandom().randrange(2**31))[0]


def opened(
    configs: Sequence[TrainConfig], processes: Processes
) -> tuple[Uploader | None, list[list[Writer]]]:
    """Open the hub and the trackers of each word, before the model.

    The main process has them, and all processes end where it fails.

    Raises:
        CoinageError: one does not start.
    """
    from coinage.hub import open_uploader
    from coinage.training.observers.trackers import open_writers

    uploader: Uploader | None = None
    writers: list[list[Writer]] = [[] for _ in configs]
    begun = datetime.now().astimezone()
    error: CoinageError | None = None
    if processes.main:
        try:
            uploader = open_uploader(configs[0].hub)
            for own, config in zip(writers, configs, strict=True):
                name = config.word.output_name if len(configs) > 1 else ""
                own.extend(open_writers(config.log, config.save.output_dir, name, begun))
        except CoinageError as failed:
            error = failed
    if any(processes.gather(error is not None)):
        raise error or AlreadyReported()  # the main process tells why
    return uploader, writers


def run_training(plans: Sequence[Plan], timeout: int | None = None) -> None:
    """Load the model, train its words, save. Everything heavy is imported here."""
    from coinage.checks.memory import free_memory_problem
    from coinage.cli.signals import stopping
    from coinage.models.facts import FACTS
    from coinage.models.quiet import quiet_libraries
    from coinage.models.threads import fit_threads
    from coinage.training.loop import train_together
    from coinage.training.model_check import check_model
    from coinage.training.observers.reporter import Reporter, WarningsKept
    from coinage.training.observers.standard import cache_latents, observers_for
    from coinage.training.processes import start_processes
    from coinage.training.search.autopilot import with_the_best
    from coinage.training.search.init_word import start_from_the_best
    from coinage.training.setup import prepare_all

    quiet_libraries()
    processes, device = start_processes(timeout)
    configs, checked = [plan.config for plan in plans], plans
    if processes.main and (problem := free_memory_problem(plans, device)):
        log.warning("%s", problem)
    uploader, writers = opened(configs, processes)
    model = configs[0].model
    fact("model", f"loading {model.source} ({FACTS[model.family].display_name})")
    with ExitStack() as stack:
        warned = stack.enter_context(
            WarningsKept(str(warning) for found in checked for warning in found.warnings)
        )
        runs = prepare_all(
            configs,
            [found.samples for found in checked],
            device,
            [found.state for found in checked],
            processes,
        )
        fit_threads(runs[0].parts)
        tell_loaded(runs[0], checked[0].state)
        cache_latents(*(run for run in runs if run.config.data.cache_latents))
        for run in runs:
            start_from_the_best(run)
        runs = with_the_best(runs)
        watches, reporters = [], []
        for run, found, own in zip(runs, checked, writers, strict=True):
            rows = sum(map(len, run.start))
            reporter = (
                Reporter(run.config, rows, found.prompts, warned, processes.count)
                if processes.main
                else None
            )
            watches.append(observers_for(run, found.prompts, own, uploader, reporter))
            reporters.append(reporter)
        with closing_all(watches), stopping(runs):
            train_together(runs, watches, check_model)
        if not all(run.complete for run in runs):
            sys.exit(128 + runs[0].progress.stop_signal)
        for run, reporter in zip(runs, reporters, strict=True):
            if reporter:
                finish(run, reporter)


@contextmanager
def closing_all(watches: Sequence[Observer]) -> Iterator[None]:
    """Close them at the end, the first one last: it shows the progress."""
    with ExitStack() as stack:
        for watch in watches:
            stack.callback(watch.close)
        yield


def finish(run: Run, reporter: Reporter) -> None:
    """Say where a word is that is learned, and try it in other tools."""
    from coinage.training.final_check import check_and_tell

    log.info("saved %s", run.config.output_file)
    reporter.verified(run, *check_and_tell(run))
    if reporter.written:
        log.info("look at %s", reporter.path)
    if run.config.log.quiet:
        print_result(str(run.config.output_file))


def tell_loaded(run: Run, state: Path | None) -> None:
    """Say what the model runs on and how, and where the run goes on from."""
    import torch

    device = run.parts.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    fact("device", f"{str(run.dtype).removeprefix('torch.')} on {name}")
    if run.processes.count > 1:
        fact("", f"{run.processes.count} processes, each with its share of every step")
    if run.step:
        fact(
            "state",
            f"going on after step {run.step} from {state}"
            + (", and so the other words" if run.word_count > 1 else ""),
        )
    versions = ", ".join(
        f"{package} {version(package)}"
        for package in ("torch", "diffusers", "transformers", "accelerate")
    )
    log.debug(
        "coinage %s, %s, Python %s on %s",
        __version__,
        versions,
        platform.python_version(),
        platform.platform(),
    )
    log.debug(
        "%s: %s",
        type(run.optimizer).__name__,
        {k: v for k, v in run.optimizer.param_groups[0].items() if k != "params"},
    )
