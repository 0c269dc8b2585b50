"""Keep what `--autopilot` chose for a word beside it, for runs that go on. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from coinage.config import TrainConfig
from coinage.errors import CoinageError, Findings
from coinage.runs.files import CHOICE
from coinage.runs.states import named_state
from coinage.system.text_files import read_json
from coinage.system.typed_json import decode
from coinage.text.placeholder import CHUNK


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings that were best, and how all of them did.

    Attributes:
        name: of the settings.
        init_word, num_vectors, learning_rate, seed: what a run is made with.
        given_seed: which chooses the images held out, as without a choice.
        ranking: (name, loss where it was measured last), best first; None is not finite.
    """

    name: str
    init_word: str | None
    num_vectors: int
    learning_rate: float
    seed: int
    given_seed: int
    ranking: Sequence[tuple[str, float | None]]

    def applied(self, config: TrainConfig) -> TrainConfig:
        """Return a run's settings with what was chosen."""
        datasets = []
        for dataset in config.data.datasets:
            if dataset.validation_seed is None:
                dataset = replace(dataset, validation_seed=self.given_seed)  # noqa: PLW2901
            datasets.append(dataset)
        return replace(
            config,
            word=replace(config.word, init_word=self.init_word, num_vectors=self.num_vectors),
            optim=replace(config.optim, learning_rate=self.learning_rate),
            loop=replace(
                config.loop,
                seed=self.seed,
                chosen=self.name,
                tried=tuple(self.ranking),
                given_seed=self.given_seed,
            ),
            data=replace(config.data, datasets=tuple(datasets)),
        )

    def as_json(self) -> bytes:
        """Return what is written."""
        return (json.dumps(asdict(self), indent=1, allow_nan=False) + "\n").encode()


def choice_of(
    config: TrainConfig, given_seed: int, ranking: Sequence[tuple[str, float | None]]
) -> Choice:
    """Return the choice of a candidate's settings."""
    word, loop = config.word, config.loop
    return Choice(
        loop.chosen,
        word.init_word,
        word.num_vectors,
        config.optim.learning_rate,
        loop.seed,
        given_seed,
        ranking,
    )


def path_of(config: TrainConfig, folder: Path | None = None) -> Path:
    """Return where a run's choice is kept: in its output folder, unless another one is given."""
    return (folder or config.save.output_dir) / f"{config.word.output_name}{CHOICE}"


def read_choice(path: Path) -> Choice | None:
    """Read what was chosen; None where the file is not as it was written."""
    try:
        choice = decode(Choice, read_json(path), exact=True)
    except (CoinageError, ValueError, TypeError):
        return None
    is_possible = 1 <= choice.num_vectors <= CHUNK and choice.learning_rate > 0
    return choice if is_possible else None


def as_chosen(config: TrainConfig, findings: Findings) -> TrainConfig:
    """Return the settings of a run that goes on, with what `--autopilot` chose when it began.

    A choice that is missing or broken is an error in `findings`.
    """
    if config.loop.autopilot is None or config.state.resume is None:
        return config
    state = named_state(config.state.resume, config.save.output_dir, config.word.output_name)
    if state is None or not state.is_dir():
        return config  # the run begins, or the missing state is reported
    path = path_of(config, state.parent)
    if not path.is_file():
        path = path_of(config)
    if not path.is_file():
        hint = "put it back; or leave out --autopilot, and pass the settings that the state was trained with"
        findings.error(
            f"--autopilot: the run goes on, and {path_of(config).name}, which holds the choice, is not there",
            str(state),
            hint,
        )
        return config
    choice = read_choice(path)
    if choice is None:
        findings.error(
            "--autopilot: the choice cannot be read", str(path), "begin anew without --resume"
        )
        return config
    return choice.applied(config)
