"""The training command: the reference trainer's command line, run by Coinage."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from coinage.cli.build import build
from coinage.cli.parse import idle_flags, parse, report, write_config
from coinage.config import TrainConfig
from coinage.errors import CoinageError, ConfigError, Problem
from coinage.preflight import Checked, check

log = logging.getLogger("coinage")


class _Lines(logging.Formatter):
    """`warning: ...` for trouble, the bare text otherwise."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()


def set_up_log(level: str) -> None:
    """Print our messages to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    log.handlers = [handler]
    log.setLevel(level)
    log.propagate = False


def train_command(script: str, argv: Sequence[str] | None = None, prog: str = "train_textual_inversion.py") -> int:
    """Parse, check, train. Returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    try:
        args = parse(script, sys.argv[1:] if argv is None else argv, prog)
        if args.output_config:
            print(f"wrote {write_config(args)}")
            return 0
        if script == "sdxl":
            raise ConfigError([Problem("Stable Diffusion XL is not supported yet", hint="train_textual_inversion.py trains for SD 1.x")])
        config, idle_keys = build(args)
        set_up_log(config.log.level)
        for name in (*idle_flags(args), *idle_keys):
            log.info("note: %s has no effect yet", name)
        if args.seed is None:
            log.info("seed: %d (pass --seed to repeat this run)", config.loop.seed)
        checked = check(config)
        for warning in checked.warnings:
            log.warning("%s", warning)
        run_training(config, checked)
    except CoinageError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def run_training(config: TrainConfig, checked: Checked) -> None:
    """Load the model, train, save. Everything heavy is imported here."""
    from accelerate import PartialState

    from coinage.families import quiet_libraries
    from coinage.training.loop import train
    from coinage.training.setup import prepare
    from coinage.training.watch import cache_latents, observers_for

    quiet_libraries()
    state = PartialState()
    if state.num_processes > 1:
        raise CoinageError("several processes are not supported yet", hint="pass --num_processes 1 to accelerate launch")
    log.info("loading %s", config.model.source)
    run = prepare(config, checked.samples, state.device)
    log.info("%d images, %d steps, %d epochs, %s on %s", len(run.samples), run.total_steps, run.total_epochs, run.dtype, state.device)
    if config.data.cache_latents:
        cache_latents(run)
    observers = observers_for(run, checked.prompts)
    try:
        train(run, observers)
    finally:
        for observer in observers:
            observer.close()
    name = config.words[0].output_name
    log.info("saved %s", config.save.output_dir / f"{name}.{config.save.format}")
