"""The training command: the reference trainer's command line, run by Coinage."""

from __future__ import annotations

import argparse
import logging
import platform
import random
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from coinage import __version__
from coinage.cli.console import exit_code_of, set_up_log
from coinage.cli.notes import notes
from coinage.cli.parse import parse, write_config
from coinage.errors import CoinageError, ConfigError
from coinage.launch import process_count
from coinage.terminal import fact

if TYPE_CHECKING:
    from coinage.config import TrainConfig
    from coinage.hub import Uploader
    from coinage.preflight import Checked
    from coinage.training.processes import Processes
    from coinage.training.setup import Run
    from coinage.training.trackers import Writer

log = logging.getLogger("coinage")


def train_command(script: str, argv: Sequence[str] | None = None, prog: str = "train_textual_inversion.py") -> int:
    """Parse, check, train. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _traced(parse(script, words, prog)))


def _traced(args: argparse.Namespace) -> None:
    """Train; with `--verbose`, an error for the user has its traceback too. A fault of ours has it always."""
    try:
        _train(args)
    except CoinageError:
        if args.verbose:
            traceback.print_exc()
        raise


def _train(args: argparse.Namespace) -> None:
    if args.output_config:
        print(f"wrote {write_config(args)}")
        return
    from coinage.cli.build import build
    from coinage.cli.plan import tell_head, tell_plan
    from coinage.preflight import check

    drawn = args.seed is None
    if drawn and process_count() > 1:
        args.seed = shared_seed(args.ddp_timeout)
    config, findings = build(args)
    set_up_log(config.log.level, config.log.file, simple=config.log.simple, live=not config.log.quiet)
    if args.debug_dataset:
        from coinage.cli.cmd_dataset import show_dataset

        findings.notes += notes(args)
        show_dataset(config, findings, args.debug_dataset_out)
        return
    checked = check(config, findings)
    for note in (*notes(args), *findings.notes):
        log.info("note: %s", note)
    for warning in checked.warnings:
        log.warning("%s", warning)
    tell_head(config, checked.samples, drawn=drawn)
    if args.dry_run:
        tell_plan(config, checked)
        return
    run_training(config, checked, args.ddp_timeout)


def shared_seed(timeout: int | None) -> int:
    """A drawn seed that all processes have."""
    from coinage.training.processes import start_processes

    return start_processes(timeout)[0].gather(random.SystemRandom().randrange(2**31))[0]


def opened(config: TrainConfig, processes: Processes) -> tuple[Uploader | None, list[Writer]]:
    """Hub and trackers, before the model; the main process has them, and all end where it fails.

    Raises:
        CoinageError: one does not start.
    """
    from coinage.hub import open_uploader
    from coinage.training.trackers import open_writers

    uploader: Uploader | None = None
    writers: list[Writer] = []
    error: CoinageError | None = None
    if processes.main:
        try:
            uploader, writers = open_uploader(config.hub), open_writers(config.log, config.save.output_dir)
        except CoinageError as failed:
            error = failed
    if any(processes.gather(error is not None)):
        raise error or ConfigError([])  # the main process tells why
    return uploader, writers


def run_training(config: TrainConfig, checked: Checked, timeout: int | None = None) -> None:
    """Load the model, train, save. Everything heavy is imported here."""
    from coinage.cli.plan import judge_memory
    from coinage.families import quiet_libraries
    from coinage.model_files import FAMILY_NAMES
    from coinage.training.loop import train
    from coinage.training.processes import start_processes
    from coinage.training.reporter import Reporter, WarningsKept
    from coinage.training.setup import prepare
    from coinage.training.stopping import stopping
    from coinage.training.using import check_and_tell
    from coinage.training.watch import cache_latents, observers_for

    quiet_libraries()
    processes, device = start_processes(timeout)
    if processes.main:
        judge_memory(config, checked, device)
    uploader, writers = opened(config, processes)
    fact("model", f"loading {config.model.source} ({FAMILY_NAMES[config.model.family]})")
    with WarningsKept(map(str, checked.warnings)) as warned:
        run = prepare(config, checked.samples, device, checked.state, processes)
        tell_loaded(run, checked.state)
        if config.data.cache_latents:
            cache_latents(run)
        rows = sum(map(len, run.start))
        reporter = Reporter(config, rows, checked.prompts, warned, processes.count) if processes.main else None
        watch = observers_for(run, checked.prompts, writers, uploader, reporter)
        try:
            with stopping([run]):
                train(run, watch)
        finally:
            watch.close()
        if run.step < run.total_steps:
            sys.exit(128 + run.stop)
        if reporter:
            log.info("saved %s", config.output_file)
            reporter.verified(run, config.output_file, check_and_tell(run, config.output_file))
            if reporter.written:
                log.info("look at %s", reporter.path)
            if config.log.quiet:
                print(config.output_file)


def tell_loaded(run: Run, state: Path | None) -> None:
    """Say what the model runs on and how, and where the run goes on from."""
    import torch

    device = run.parts.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    fact("device", f"{str(run.dtype).removeprefix('torch.')} on {name}")
    if run.processes.count > 1:
        fact("", f"{run.processes.count} processes, each with its share of every step")
    if run.step:
        fact("state", f"going on after step {run.step} from {state}")
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "diffusers", "transformers", "accelerate"))
    log.debug("coinage %s, %s, Python %s on %s", __version__, versions, platform.python_version(), platform.platform())
    log.debug("%s: %s", type(run.optimizer).__name__, {k: v for k, v in run.optimizer.param_groups[0].items() if k != "params"})
