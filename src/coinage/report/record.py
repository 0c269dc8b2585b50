"""The record of a run as plain values, which its page holds as JSON. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from coinage.system.typed_json import decode

VERSION = 1  # of the values' meaning
Status = Literal["training", "finished", "stopped", "failed"]


@dataclass(kw_only=True)
class Curves:
    """What was measured over the steps.

    All lists are as long as `step`; None stands where nothing was measured.

    Attributes:
        step: the last of the steps that a point stands for.
        loss: their mean.
        low, high: the least and the largest of them.
        rate: learning rate at `step`.
        bands: mean loss in each part of the timesteps, in the order of `Record.bands`.
        norms: length of every row at `step`, in the order of `Record.rows`.
        angles: degrees of every row from where it started, 0..180.
    """

    step: list[int] = field(default_factory=list)
    loss: list[float | None] = field(default_factory=list)
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    rate: list[float | None] = field(default_factory=list)
    bands: list[list[float | None]] = field(default_factory=list)
    norms: list[list[float | None]] = field(default_factory=list)
    angles: list[list[float | None]] = field(default_factory=list)


@dataclass(kw_only=True)
class Image:
    """A training image: what the contact sheet shows of it.

    Attributes:
        gain: how much lower the word has made its loss, per cent; None where that was not measured.
    """

    name: str
    thumbnail: str  # data URL
    caption: list[tuple[str, bool]]  # parts of the text, and whether each is the word
    size_wh: tuple[int, int]
    bucket_wh: tuple[int, int]
    repeats: int
    marks: list[str]  # such as "held out"
    gain: float | None = None


@dataclass(kw_only=True)
class Shot:
    """The previews of one step: a data URL for each prompt, None where it was not drawn.

    Attributes:
        heat: what is laid over each to show where the word acts, None where it is not in the prompt;
            [] where that was not measured.
    """

    step: int
    pictures: list[str | None]
    heat: list[str | None] = field(default_factory=list)


@dataclass(kw_only=True)
class PreviewPrompt:
    """A prompt of the previews.

    One that is `of` another is the same without the word. It is drawn once, since it does not
    change.
    """

    text: str
    seed: int | None = None
    of: int | None = None
    negative: str = ""


@dataclass(kw_only=True)
class Row:
    """One vector: its text encoder's key, its number from 1, and its nearest words, each with its cosine."""

    key: str
    number: int
    first: list[tuple[str, float]] = field(default_factory=list)  # before the first step
    now: list[tuple[str, float]] = field(default_factory=list)
    learns: bool = True  # off: it stays as it starts


@dataclass(kw_only=True)
class Standing:
    """The word at a step where its evaluation loss was measured, and its file, if one is kept."""

    step: int
    loss: float | None
    angle: float | None = None  # degrees from the start, mean of the rows
    norm: float | None = None  # their mean length
    file: str = ""


@dataclass(kw_only=True)
class Tool:
    """How the file works in one tool."""

    tool: str
    loads: bool
    same: bool
    difference: float | None
    write: str
    why: str


@dataclass(kw_only=True)
class Record:
    """A run, as far as it has come.

    Attributes:
        name: of the output file, without suffix.
        token: the word.
        family: in words, such as `Stable Diffusion 1.x`.
        model: name of the model's file or folder.
        status: and `problem`, what ended a run that failed.
        device: and precision, such as `cpu, bf16`.
        began, written: ISO 8601, local.
        seconds: of training, in all processes that took the run further.
        command: that repeats the run, as typed into a shell.
        settings: groups of (flag, value) that differ from the defaults.
        vocabulary: for each key, the length of the model's words: 5 %, median, 95 %.
        measured: (step, evaluation loss).
        measured_on: what it was measured on, in words.
        standings: of the same steps, best first.
        ended_early: why, in a sentence.
        starts: init words that were tried, best first, each with its loss as it stands and after a
            few steps; "" is the vocabulary's mean.
        tried: settings that were tried before the run, best first, each with its loss after a few
            steps.
        usage: lines that say how to use the file.
        left_out: how many entries of a field, such as `shots`, were left out to keep the page
            small.
    """

    version: int = VERSION
    coinage: str = ""
    name: str = ""
    token: str = ""
    family: str = ""
    model: str = ""
    status: Status = "training"
    problem: str = ""
    device: str = ""
    began: str = ""
    written: str = ""
    seconds: float = 0.0
    images_learned: int = 0
    step: int = 0
    total_steps: int = 0
    epoch: int = 1
    total_epochs: int = 1
    command: str = ""
    settings: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    image_count: int = 0
    images: list[Image] = field(default_factory=list)
    curves: Curves = field(default_factory=Curves)
    # First timestep, and one past the last
    bands: list[tuple[int, int]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    vocabulary: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    measured: list[tuple[int, float]] = field(default_factory=list)
    measured_on: str = "held-out images"
    standings: list[Standing] = field(default_factory=list)
    ended_early: str = ""
    starts: list[tuple[str, float | None, float | None]] = field(default_factory=list)
    tried: list[tuple[str, float | None]] = field(default_factory=list)
    prompts: list[PreviewPrompt] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tools: list[Tool] = field(default_factory=list)
    usage: list[str] = field(default_factory=list)
    file: str = ""  # the embedding's path, once it is written
    left_out: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> str:
        """Return the record as JSON that may stand inside a page's script element."""
        text = json.dumps(
            vars(self), default=vars, ensure_ascii=True, separators=(",", ":"), allow_nan=False
        )
        return text.replace("<", "\\u003c")


def from_json(text: str) -> Record:
    """Return the record of a page; fields of a later version are left aside.

    Raises:
        ValueError: not JSON, of another version, or a value is not of its field's type.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("version") != VERSION:
            raise ValueError("not a record of this version")
        return decode(Record, values)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
