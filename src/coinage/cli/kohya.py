"""The training command: the reference trainer's command line, run by Coinage."""

from __future__ import annotations

import argparse
import logging
import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coinage.cli.console import exit_code_of, set_up_log
from coinage.cli.notes import notes
from coinage.cli.parse import parse, write_config
from coinage.errors import CoinageError, ConfigError
from coinage.launch import process_count

if TYPE_CHECKING:
    from coinage.config import TrainConfig
    from coinage.hub import Uploader
    from coinage.preflight import Checked
    from coinage.training.processes import Processes
    from coinage.training.trackers import Writer

log = logging.getLogger("coinage")


def train_command(script: str, argv: Sequence[str] | None = None, prog: str = "train_textual_inversion.py") -> int:
    """Parse, check, train. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _train(parse(script, words, prog)))


def _train(args: argparse.Namespace) -> None:
    if args.output_config:
        print(f"wrote {write_config(args)}")
        return
    from coinage.cli.build import build
    from coinage.preflight import check

    drawn = args.seed is None
    if drawn and process_count() > 1:
        args.seed = shared_seed(args.ddp_timeout)
    config, findings = build(args)
    if args.debug_dataset:
        from coinage.cli.cmd_dataset import show_dataset

        findings.notes += notes(args)
        show_dataset(config, findings, args.debug_dataset_out)
        return
    set_up_log(config.log.level, config.log.file, simple=config.log.simple)
    checked = check(config, findings)
    for note in (*notes(args), *findings.notes):
        log.info("note: %s", note)
    for warning in checked.warnings:
        log.warning("%s", warning)
    if drawn:
        log.info("seed: %d (pass --seed to repeat this run)", config.loop.seed)
    if args.dry_run:
        from coinage.cli.plan import tell_plan

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
    from coinage.data.summary import headlines
    from coinage.families import quiet_libraries
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
    log.info("loading %s", config.model.source)
    with WarningsKept(map(str, checked.warnings)) as warned:
        run = prepare(config, checked.samples, device, checked.state, processes)
        for line in headlines(config.data, run.samples):
            log.info("%s", line)
        shape = (sum(s.trains for s in run.samples), run.total_steps, run.total_epochs, run.dtype, device)
        log.info("%d images, %d steps, %d epochs, %s on %s", *shape)
        if processes.count > 1:
            log.info("%d processes, each with its share of every step", processes.count)
        if config.data.cache_latents:
            cache_latents(run)
        reporter = Reporter(config, sum(map(len, run.start)), checked.prompts, warned.found) if processes.main else None
        watch = observers_for(run, checked.prompts, writers, uploader, reporter)
        if run.step:
            log.info("going on after step %d from %s", run.step, checked.state)
        try:
            with stopping(run):
                train(run, watch)
        finally:
            watch.close()
        if run.step < run.total_steps:
            sys.exit(128 + run.stop)
        path = config.save.output_dir / f"{config.words[0].output_name}.{config.save.format}"
        if reporter:
            log.info("saved %s", path)
            reporter.verified(run, path, check_and_tell(run, path))
            log.info("look at %s", reporter.path)
