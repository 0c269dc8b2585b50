"""The previews of one run or several: which pictures stand side by side, and which are shown where the slider stands. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from coinage.report.record import Asked, Record
from coinage.text.placeholder import marked_parts

Parts = list[tuple[str, bool]]
WITHOUT = "the same without the word"
FEWEST_COLUMNS, MOST_COLUMNS = 3, 6  # of previews on a wide page


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A place for a picture: of which run and prompt, with the text below and the picture that the page begins with.

    One that is `still` does not change over the run, and is drawn once.
    """

    run: int
    prompt: int
    parts: Parts
    text: str
    note: str
    seed: int | None
    picture: str
    still: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All places, in groups that belong together, and what the slider shows.

    Attributes:
        groups: a heading, which may be empty, and tiles side by side.
        labels: of the slider's positions.
        shots: for every run and position, which of its shots is shown.
        steps: and its step in words.
        columns: tiles beside each other on a wide page.
    """

    groups: list[tuple[Parts, list[Tile]]]
    labels: list[str]
    shots: list[list[int]]
    steps: list[list[str]]
    columns: int

    @property
    def named(self) -> list[tuple[int, str]]:
        """Positions that have a name, such as the best step's; none where there is but one."""
        found = [
            (at, label.partition(", ")[0])
            for at, label in enumerate(self.labels)
            if label.startswith(("best", "end"))
        ]
        return found if len(found) > 1 else []

    @property
    def plan(self) -> str:
        """What the page's script needs of it, as JSON that may stand inside a script element."""
        return json.dumps(
            {"labels": self.labels, "shots": self.shots, "steps": self.steps}
        ).replace("<", "\\u003c")


def stage_of(record: Record) -> Stage | None:
    """The previews of a run, the same prompt with and without the word side by side; None without previews."""
    if not record.shots or not record.prompts:
        return None
    last = len(record.shots) - 1
    groups: list[tuple[Parts, list[Tile]]] = [
        ([], [_tile(record, 0, place, last, paired=len(group) > 1) for place in group])
        for group in _groups(record.prompts)
    ]
    labels = [label_of(record, shot.step) for shot in record.shots]
    columns = columns_for([len(group) for _, group in groups])
    return Stage(
        groups=groups,
        labels=labels,
        shots=[list(range(len(record.shots)))],
        steps=[labels],
        columns=columns,
    )


def label_of(record: Record, step: int) -> str:
    """Return which step a preview is of, in words; the best and the last one of a finished run are named as such."""
    over, best = record.status == "finished", record.standings[0] if record.standings else None
    names = (["best"] if best and best.step == step else []) + (
        ["end"] if record.step == step else []
    )
    return ", ".join(
        [" and ".join(names if over else []), f"step {step:,} of {max(record.total_steps, step):,}"]
    ).removeprefix(", ")


def columns_for(sizes: Sequence[int]) -> int:
    """Return how many tiles stand side by side, so that as few places as possible stay empty and no group is broken.

    Args:
        sizes: tiles in each group, such as 2 for a prompt with and without the word.
    """
    if sum(sizes) <= MOST_COLUMNS:
        return max(FEWEST_COLUMNS, sum(sizes))
    wide = max(FEWEST_COLUMNS, *(min(size, MOST_COLUMNS) for size in sizes))
    return min(
        range(wide, MOST_COLUMNS + 1), key=lambda columns: (_holes(sizes, columns), -columns)
    )


def _holes(sizes: Sequence[int], columns: int) -> int:
    """Places that stay empty when groups fill rows in turn."""
    rows: list[int] = []  # room left in each
    for size in sizes:
        own = min(size, columns)
        # A later group fills an earlier gap
        at = next((i for i, room in enumerate(rows) if room >= own), None)
        if at is None:
            rows.append(columns)
            at = len(rows) - 1
        rows[at] -= own
    return sum(rows)


def stage_of_runs(records: Sequence[Record]) -> Stage | None:
    """The previews of several runs, a group for each prompt; None where there are none.

    The slider counts steps where all runs have as many, and parts of the run where not. A run's picture
    is the last one at or before the slider's position, or its first.
    """
    lengths = [
        max([record.total_steps, *(shot.step for shot in record.shots)]) or 1 for record in records
    ]
    same = len(set(lengths)) == 1
    keys = [
        [shot.step if same else round(shot.step / length, 3) for shot in record.shots]
        for record, length in zip(records, lengths, strict=True)
    ]
    positions = sorted({key for own in keys for key in own})
    groups = _matched(records)
    if not positions or not groups:
        return None
    labels = [
        f"step {at:,} of {lengths[0]:,}" if same else f"{100 * at:.3g} % of each run"
        for at in positions
    ]
    shots = [[max(0, sum(key <= at for key in own) - 1) for at in positions] for own in keys]
    steps = [
        [f"step {record.shots[i].step:,}" if record.shots else "" for i in own]
        for record, own in zip(records, shots, strict=True)
    ]
    return Stage(
        groups=groups, labels=labels, shots=shots, steps=steps, columns=max(2, min(4, len(records)))
    )


def pictures_of(records: Sequence[Record]) -> str:
    """All pictures by run, shot and prompt, as JSON that may stand inside a script element."""
    return json.dumps([[shot.pictures for shot in record.shots] for record in records]).replace(
        "<", "\\u003c"
    )


def _groups(prompts: Sequence[Asked]) -> list[list[int]]:
    """Places of prompts, each with those that are compared with it right behind."""
    roots = [
        asked.of if asked.of is not None and 0 <= asked.of < len(prompts) and asked.of != i else i
        for i, asked in enumerate(prompts)
    ]
    groups: dict[int, list[int]] = {}
    for place, root in enumerate(roots):
        groups.setdefault(roots[root], []).append(place)
    return [
        sorted(group, key=lambda place: (prompts[place].of is not None, place))
        for group in groups.values()
    ]


def _parts(asked: Asked, token: str) -> Parts:
    """What a prompt says, and its negative prompt where the word is in that."""
    negative = marked_parts(asked.negative, token)
    told = any(is_word for _, is_word in negative)
    return marked_parts(asked.text, token) + (
        [(", negative prompt: ", False), *negative] if told else []
    )


def _tile(record: Record, run: int, place: int, shot: int, *, paired: bool) -> Tile:
    asked = record.prompts[place]
    parts = _parts(asked, record.token)
    still = asked.of is not None
    drawn = [
        own[place] if place < len(own) else None
        for own in (each.pictures for each in record.shots[: shot + 1])
    ]
    picture = (
        next((url for url in reversed(drawn) if url), "") if still else (drawn or [None])[-1] or ""
    )
    lacks = paired and not any(is_word for _, is_word in parts)
    note = WITHOUT if lacks else ""
    return Tile(
        run=run,
        prompt=place,
        parts=parts,
        text=asked.text,
        note=note,
        seed=asked.seed,
        picture=picture,
        still=still,
    )


def _matched(records: Sequence[Record]) -> list[tuple[Parts, list[Tile]]]:
    """Tiles of the same prompt in all runs that have it; each run's own word counts as the same."""
    groups: dict[tuple[tuple[str, bool], ...], list[Tile]] = {}
    for run, record in enumerate(records):
        if not record.shots:
            continue
        for place, asked in enumerate(record.prompts):
            key = tuple(
                ("" if is_word else part, is_word) for part, is_word in _parts(asked, record.token)
            )
            tiles = groups.setdefault(key, [])
            if not any(tile.run == run for tile in tiles):
                tiles.append(_tile(record, run, place, len(record.shots) - 1, paired=False))
    return [(tiles[0].parts, tiles) for tiles in groups.values()]
