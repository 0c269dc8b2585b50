"""Check that warm-ups, decays and intervals fit into the run. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from coinage.config import TrainConfig
from coinage.data.batches import length_of
from coinage.data.sample import Sample
from coinage.errors import Findings
from coinage.system.launch import process_count
from coinage.wording import counted


def fit_into_run(config: TrainConfig, samples: Sequence[Sample], findings: Findings) -> None:
    """Find what is longer than the run.

    Args:
        config: the run; `max_epochs` decides how many steps it has, where it is given.
        samples: its images, at least one of them with repeats.
        findings: gets errors where the learning rate would never be reached, and warnings for
            what never comes.
    """
    steps, epochs = length_of(config, samples, process_count())
    length = counted(steps, "step")
    if config.loop.max_epochs is not None:
        length += f" (--max_train_epochs {config.loop.max_epochs})"
    _fit_window(config, steps, length, findings)
    _fit_schedule(config, config.word.steps_of(steps), length, findings)
    _fit_intervals(config, steps, epochs, length, findings)
    for dataset in config.data.datasets:
        for subset in dataset.subsets:
            if subset.captions.warmup > steps:
                what = (
                    f"token_warmup_step {subset.captions.warmup:g} is more than the run's {length}"
                )
                hint = f"use at most {steps}, or a fraction such as 0.5"
                findings.warn(f"{what}: not all tags are ever used", subset.where, hint)


def _fit_window(config: TrainConfig, steps: int, length: str, findings: Findings) -> None:
    start, end = config.word.start_step, config.word.end_step
    if start >= steps:
        what = f"--start_step {start} leaves nothing of the run's {length} to learn in"
        findings.error(what, hint=f"use less than {steps}, or more steps")
    if end and end > steps:
        findings.warn(
            f"--end_step {end} is more than the run's {length}: the word learns to its end"
        )


def _fit_schedule(config: TrainConfig, steps: int, length: str, findings: Findings) -> None:
    optim = config.optim
    decays = optim.schedule == "warmup_stable_decay" and not optim.schedule_class
    wanted = {"--lr_warmup_steps": optim.warmup, "--lr_decay_steps": optim.decay if decays else 0}
    hint = "a fraction such as 0.1 fits any run"
    for flag, count in wanted.items():
        if count >= steps > 0 and count >= 1:
            findings.error(f"{flag} {count:g} does not fit in {length}", hint=hint)
    both = sum(int(count * steps) if count < 1 else int(count) for count in wanted.values())
    if decays and both > steps and all(count < steps for count in wanted.values()):
        what = f"--lr_warmup_steps and --lr_decay_steps together are {both}"
        findings.error(f"{what}, and do not fit in {length}", hint=hint)


def _fit_intervals(
    config: TrainConfig, steps: int, epochs: int, length: str, findings: Findings
) -> None:
    save, preview, validation = config.save, config.preview, config.validation
    by_step = {
        "--save_every_n_steps": save.every_n_steps,
        "--sample_every_n_steps": None if preview.every_n_epochs else preview.every_n_steps,
        "--validate_every_n_steps": validation.every_n_steps,
    }
    by_epoch = {
        "--save_every_n_epochs": None if save.n_epoch_ratio else save.every_n_epochs,
        "--sample_every_n_epochs": preview.every_n_epochs,
        "--validate_every_n_epochs": validation.every_n_epochs,
    }
    late = {flag: (every, length) for flag, every in by_step.items() if every and every > steps}
    in_epochs = counted(epochs, "epoch")
    late |= {
        flag: (every, in_epochs) for flag, every in by_epoch.items() if every and every > epochs
    }
    for flag, (every, whole) in late.items():
        findings.warn(f"{flag} {every} is more than the run's {whole}, so it never happens")
