"""The settings and the command of a run, as its page shows them."""

from __future__ import annotations

from coinage.config import TrainConfig
from coinage.system.shell import line_break, quoted

# The seed is always in the command, and the command trains from the beginning
NOT_REPEATED = ("--seed", "--resume")


def settings_of(config: TrainConfig) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return by group the flags that differ from their defaults, and what the dataset file sets."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for flag in config.log.given:
        groups.setdefault(flag.group, []).append((flag.name, " ".join(flag.arguments)))
    from_file: dict[tuple[str, str], None] = {}
    for dataset in config.data.datasets:
        for subset in dataset.subsets:
            for setting, where in subset.settings:
                from_file[(where, setting)] = None
    if from_file:
        groups["dataset file"] = list(from_file)
    return list(groups.items())


def command_of(config: TrainConfig, process_count: int) -> str:
    """Return a command that repeats a run from its beginning, as this system's shell takes it.

    The seed is in it; passwords and keys are not.

    Args:
        config: of the run.
        process_count: how many processes train together.
    """
    loop = config.loop
    seed = loop.seed if loop.given_seed is None else loop.given_seed
    lines = [_start_of(config.log.program, process_count)]
    given = config.log.given
    if config.log.typed and (config.learns_with or config.companions):
        given = config.log.typed  # only the file names the other words
    for flag in given:
        if flag.name not in NOT_REPEATED:
            lines.append(_typed(flag.name, *flag.arguments))
    lines.append(_typed("--seed", str(seed)))
    return line_break().join(lines)


def _start_of(program: str, process_count: int) -> str:
    """Return how a program is started: `coinage train`, or a script by Python or accelerate."""
    if process_count > 1:
        module = program.replace("coinage train", "-m coinage.cli.main train")
        return f"accelerate launch --num_processes={process_count} {module}"
    return program if program.startswith("coinage") else f"python {program}"


def _typed(flag: str, *values: str) -> str:
    """Return a flag with its values: `--flag`, `--flag=value` or `--flag first second`."""
    if len(values) > 1:
        return quoted([flag, *values])
    return quoted(["=".join((flag, *values))])
