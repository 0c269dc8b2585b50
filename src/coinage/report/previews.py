"""Arrange the previews of one run or several: groups of pictures, and the slider's positions.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from coinage.report.record import PreviewPrompt, Record
from coinage.text.placeholder import marked_parts

Parts = list[tuple[str, bool]]
WITHOUT_WORD = "the same without the word"
FEWEST_COLUMNS, MOST_COLUMNS = 3, 6  # of previews on a wide page


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A place for a picture.

    Attributes:
        run, prompt: places of both.
        parts: of the prompt, and whether each is the word.
        text: of the prompt.
        note: shown below.
        seed: of the prompt.
        picture: that the page begins with; "" for none.
        still: the picture does not change over the run, and is drawn once.
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
        shows_word: it was measured where the word acts.
    """

    groups: list[tuple[Parts, list[Tile]]]
    labels: list[str]
    shots: list[list[int]]
    steps: list[list[str]]
    columns: int
    shows_word: bool = False

    @property
    def named(self) -> list[tuple[int, str]]:
        """Positions that have a name, such as the best step's; none where there is only one."""
        names = []
        for position, label in enumerate(self.labels):
            if label.startswith(("best", "end")):
                names.append((position, label.partition(", ")[0]))
        return names if len(names) > 1 else []

    @property
    def plan(self) -> str:
        """JSON for the page's script, which may stand inside a script element."""
        return _script_json({"labels": self.labels, "shots": self.shots, "steps": self.steps})


def stage_of(record: Record) -> Stage | None:
    """Return the previews of a run, with and without the word side by side; None without any."""
    if not record.shots or not record.prompts:
        return None
    last = len(record.shots) - 1
    groups: list[tuple[Parts, list[Tile]]] = []
    for places in _groups(record.prompts):
        paired = len(places) > 1
        tiles = [_tile(record, 0, place, last, paired=paired) for place in places]
        groups.append(([], tiles))
    labels = [label_of(record, shot.step) for shot in record.shots]
    return Stage(
        groups=groups,
        labels=labels,
        shots=[list(range(len(record.shots)))],
        steps=[labels],
        columns=columns_for([len(tiles) for _, tiles in groups]),
        shows_word=any(any(shot.heat) for shot in record.shots),
    )


def label_of(record: Record, step: int) -> str:
    """Return which step a preview is of; of a finished run, the best and the last step are named."""
    label = f"step {step:,} of {max(record.total_steps, step):,}"
    if record.status != "finished":
        return label
    names = []
    if record.standings and record.standings[0].step == step:
        names.append("best")
    if record.step == step:
        names.append("end")
    return f"{' and '.join(names)}, {label}" if names else label


def columns_for(sizes: Sequence[int]) -> int:
    """Return how many tiles stand side by side.

    As few places as possible stay empty, and no group is broken.

    Args:
        sizes: tiles in each group, such as 2 for a prompt with and without the word.
    """
    if sum(sizes) <= MOST_COLUMNS:
        return max(FEWEST_COLUMNS, sum(sizes))
    widest = max(FEWEST_COLUMNS, min(max(sizes), MOST_COLUMNS))
    candidates = range(widest, MOST_COLUMNS + 1)
    return min(candidates, key=lambda columns: (_empty_places(sizes, columns), -columns))


def _empty_places(sizes: Sequence[int], columns: int) -> int:
    """Return how many places stay empty when groups fill rows in turn."""
    rooms: list[int] = []  # left in each row
    for size in sizes:
        width = min(size, columns)
        # A later group fills an earlier gap
        for row, room in enumerate(rooms):
            if room >= width:
                rooms[row] -= width
                break
        else:
            rooms.append(columns - width)
    return sum(rooms)


def stage_of_runs(records: Sequence[Record]) -> Stage | None:
    """Return the previews of several runs, a group for each prompt; None where there are none.

    The slider counts steps where all runs have as many, and parts of the run where not. A run's
    picture is the last one at or before the slider's position, or its first.
    """
    lengths = [_length(record) for record in records]
    same_length = len(set(lengths)) == 1
    times: list[list[float]] = []  # of each run's shots, as the slider counts
    for record, length in zip(records, lengths, strict=True):
        run_times: list[float] = []
        for shot in record.shots:
            run_times.append(shot.step if same_length else round(shot.step / length, 3))
        times.append(run_times)
    positions = sorted(set[float]().union(*times))
    groups = _matched(records)
    if not positions or not groups:
        return None
    labels = [f"{100 * position:.3g} % of each run" for position in positions]
    if same_length:
        labels = [f"step {position:,} of {lengths[0]:,}" for position in positions]
    shots = []
    steps = []
    for record, run_times in zip(records, times, strict=True):
        run_shots = _shots_at(run_times, positions)
        shots.append(run_shots)
        steps.append(_step_labels(record, run_shots))
    return Stage(
        groups=groups,
        labels=labels,
        shots=shots,
        steps=steps,
        columns=max(2, min(4, len(records))),
    )


def _length(record: Record) -> int:
    """Return the steps of a run, at least 1."""
    return max([record.total_steps, *(shot.step for shot in record.shots)]) or 1


def _shots_at(times: Sequence[float], positions: Sequence[float]) -> list[int]:
    """Return for each position the last shot at or before it, or the first."""
    shown = []
    for position in positions:
        earlier = [time for time in times if time <= position]
        shown.append(max(0, len(earlier) - 1))
    return shown


def _step_labels(record: Record, shots: Sequence[int]) -> list[str]:
    if not record.shots:
        return [""] * len(shots)
    return [f"step {record.shots[shot].step:,}" for shot in shots]


def pictures_of(records: Sequence[Record]) -> str:
    """Return all pictures by run, shot and prompt, as JSON for a script element."""
    pictures = []
    for record in records:
        pictures.append([shot.pictures for shot in record.shots])
    return _script_json(pictures)


def _script_json(value: object) -> str:
    """Return JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _groups(prompts: Sequence[PreviewPrompt]) -> list[list[int]]:
    """Return places of prompts, each followed by those that are compared with it."""
    roots = list(range(len(prompts)))
    for place, prompt in enumerate(prompts):
        if prompt.of is not None and 0 <= prompt.of < len(prompts):
            roots[place] = prompt.of
    groups: dict[int, list[int]] = {}
    for place, root in enumerate(roots):
        groups.setdefault(roots[root], []).append(place)
    for group in groups.values():
        group.sort(key=lambda place: (prompts[place].of is not None, place))
    return list(groups.values())


def _parts(prompt: PreviewPrompt, token: str) -> Parts:
    """Return the parts of a prompt, and of its negative prompt where the word is in that."""
    parts = marked_parts(prompt.text, token)
    negative = marked_parts(prompt.negative, token)
    if _has_word(negative):
        parts = [*parts, (", negative prompt: ", False), *negative]
    return parts


def _has_word(parts: Parts) -> bool:
    return any(is_word for _, is_word in parts)


def _tile(record: Record, run: int, place: int, shot: int, *, paired: bool) -> Tile:
    """Return the tile of a prompt.

    Args:
        record: of the run.
        run: its place.
        place: of the prompt.
        shot: that the page begins with.
        paired: the prompt stands beside another one.
    """
    prompt = record.prompts[place]
    parts = _parts(prompt, record.token)
    still = prompt.of is not None
    lacks_word = paired and not _has_word(parts)
    return Tile(
        run=run,
        prompt=place,
        parts=parts,
        text=prompt.text,
        note=WITHOUT_WORD if lacks_word else "",
        seed=prompt.seed,
        picture=_picture(record, place, shot, still=still),
        still=still,
    )


def _picture(record: Record, place: int, shot: int, *, still: bool) -> str:
    """Return a prompt's picture in a shot; of one that is still, the last that was drawn."""
    picture = ""
    for earlier in record.shots[: shot + 1]:
        drawn = earlier.pictures[place] if place < len(earlier.pictures) else None
        if drawn or not still:
            picture = drawn or ""
    return picture


def _without_names(parts: Parts) -> tuple[tuple[str, bool], ...]:
    """Return the parts of a prompt with nothing in place of each word."""
    nameless = []
    for part, is_word in parts:
        nameless.append(("" if is_word else part, is_word))
    return tuple(nameless)


def _matched(records: Sequence[Record]) -> list[tuple[Parts, list[Tile]]]:
    """Return tiles of the same prompt in all runs that have it; each run's own word is the same."""
    groups: dict[tuple[tuple[str, bool], ...], list[Tile]] = {}
    for run, record in enumerate(records):
        if not record.shots:
            continue
        last = len(record.shots) - 1
        for place, prompt in enumerate(record.prompts):
            parts = _parts(prompt, record.token)
            tiles = groups.setdefault(_without_names(parts), [])
            if all(tile.run != run for tile in tiles):
                tiles.append(_tile(record, run, place, last, paired=False))
    return [(tiles[0].parts, tiles) for tiles in groups.values()]
