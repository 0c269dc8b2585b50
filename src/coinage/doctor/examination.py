"""What is looked at, in which order, and what was found. Imports torch only when the card is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from coinage.errors import Findings

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Result:
    """What was found about one thing.

    Attributes:
        subject: such as `memory`.
        found: in a line.
        findings: what is wrong with it, and how it is mended; empty where all is well.
    """

    subject: str
    found: str
    findings: Findings

    @property
    def state(self) -> State:
        if self.findings.errors:
            return "error"
        return "warning" if self.findings.warnings else "ok"


Look = Callable[[], Sequence[Result]]


def looks(*, training: bool = True) -> list[tuple[str, Look]]:
    """Return all looks in their order, each with what it looks at.

    Args:
        training: whether a step is trained on each device, which takes half a minute.
    """
    from coinage.doctor import hardware, places, software, trial

    all_looks: list[tuple[str, Look]] = [
        ("Python", software.look_at_python),
        ("packages", software.look_at_packages),
        ("graphics card", hardware.look_at_device),
        ("memory", hardware.look_at_memory),
        ("folders", places.look_at_folders),
        ("models and tokenizers", places.look_at_models),
        ("settings", software.look_at_settings),
    ]
    if training:
        all_looks.append(("a step of training", trial.train_everywhere))
    return all_looks


def examine(all_looks: Sequence[tuple[str, Look]]) -> Iterator[Result]:
    """Look at one thing after the other; a look that fails itself is an error like others."""
    for subject, look in all_looks:
        try:
            yield from look()
        except Exception as error:  # noqa: BLE001 - on a machine that is ill, anything may fail
            findings = Findings()
            findings.error(f"{type(error).__name__}: {error}", hint="please report this")
            yield Result(subject, "could not be looked at", findings)
