"""The DreamBooth protocol, and the table that papers print: `python benchmarks/dreambooth.py FOLDER`.

30 subjects, 25 prompts each, four pictures of each prompt; likeness by DINO and CLIP-I, obedience by
CLIP-T (Ruiz et al. 2023, arXiv:2208.12242, section 4). FOLDER is the published data set,
github.com/google/dreambooth or its folder `dataset`: a folder of images for each subject. Words are
trained here, by `--train "NAME: flags of coinage train"`, or come from anywhere, by
`--words NAME=FOLDER` with a file for each subject, such as `dog6.safetensors`. The table has a row for
each such way, and one for the images themselves; intervals hold 95 %, bootstrapped over the subjects
(Efron 1979). The word stands alone in a prompt, and its class in the text that CLIP-T compares with.

`--results FILE` keeps all numbers and goes on from what the file has; `--latex FILE` writes the table
for a paper.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import coinage
from coinage.cli.parse import parse
from coinage.data.folder import is_image
from coinage.data.images import decode
from coinage.data_config import ImageRules
from coinage.models.quiet import quiet_libraries
from coinage.scoring.intervals import interval
from coinage.scoring.prompts import PROMPT_SETS, asked_of
from coinage.scoring.scorer import Pixels, Scorer, score_all
from coinage.settings.discover import complete
from coinage.system.files import write_bytes

COUNT = 4  # pictures of each prompt
TOKEN = "subjectword"
SUFFIXES = (".safetensors", ".pt", ".bin")
LIVE = ("cat", "dog")  # the classes with the prompts of live subjects
REAL = "the images themselves"
# As the data set names them, with the class of each
SUBJECTS: Mapping[str, str] = {
    "backpack": "backpack", "backpack_dog": "backpack", "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl", "can": "can", "candle": "candle", "cat": "cat", "cat2": "cat",
    "clock": "clock", "colorful_sneaker": "sneaker", "dog": "dog", "dog2": "dog", "dog3": "dog",
    "dog5": "dog", "dog6": "dog", "dog7": "dog", "dog8": "dog", "duck_toy": "toy",
    "fancy_boot": "boot", "grey_sloth_plushie": "stuffed animal", "monster_toy": "toy",
    "pink_sunglasses": "glasses", "poop_emoji": "toy", "rc_car": "toy", "red_cartoon": "cartoon",
    "robot_toy": "toy", "shiny_sneaker": "sneaker", "teapot": "teapot", "vase": "vase",
    "wolf_plushie": "stuffed animal",
}  # fmt: skip
Means = dict[str, float]  # by measure, of one subject
Results = dict[str, dict[str, Means]]  # by way and subject


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject of the data set: its name, its class, and its images."""

    name: str
    noun: str
    images: tuple[Path, ...]

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts of its kind."""
        return PROMPT_SETS["live" if self.noun in LIVE else "object"]

    def pixels(self) -> list[Pixels]:
        """Its images, upright."""
        return [np.asarray(decode(path, ImageRules())[0]) for path in self.images]


def subjects_in(folder: Path) -> list[Subject]:
    """The subjects that a copy of the data set has."""
    folder = folder / "dataset" if (folder / "dataset").is_dir() else folder
    found = []
    for name, noun in SUBJECTS.items():
        images = sorted(path for path in folder.glob(f"{name}/*") if is_image(path.name))
        if images:
            found.append(Subject(name, noun, tuple(images)))
    if not found:
        sys.exit(f"{folder}: none of the {len(SUBJECTS)} subjects, such as {folder / 'backpack'}")
    missing = sorted({*SUBJECTS} - {subject.name for subject in found})
    if missing:
        print(f"{len(missing)} subjects are missing: {', '.join(missing)}\n", file=sys.stderr)
    return found


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a word for each subject: flags of the training, or a folder of files."""

    name: str
    flags: tuple[str, ...] = ()
    folder: Path | None = None


def ways_of(trained: Sequence[str], words: Sequence[str]) -> list[Way]:
    """The ways that the command line names."""
    ways = []
    for text in trained:
        name, colon, flags = text.partition(":")
        if not colon:
            sys.exit(f'--train {text!r}: write "NAME: flags"')
        ways.append(Way(name.strip(), tuple(shlex.split(flags))))
    for text in words:
        name, equals, folder = text.partition("=")
        if not (equals and Path(folder).is_dir()):
            sys.exit(f"--words {text}: write NAME=FOLDER, where the folder has a file a subject")
        ways.append(Way(name, folder=Path(folder)))
    return ways or [Way("coinage train")]


def word_of(way: Way, subject: Subject, model: str, out: Path) -> coinage.Word:
    """The word of a subject: from its file, or trained now."""
    if way.folder is not None:
        for suffix in SUFFIXES:
            path = way.folder / f"{subject.name}{suffix}"
            if path.is_file():
                return coinage.load_word(path)
        sys.exit(f"{way.folder}: no {subject.name}{SUFFIXES[0]}")
    given: dict[str, Any] = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": subject.images[0].parent,
        "token_string": TOKEN,
        "output_name": subject.name,
        "init_word": subject.noun,
        "output_dir": out / way.name.replace(" ", "_"),
        "sample_every_n_steps": 0,
        "seed": 0,
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    return coinage.train(complete(parse("coinage", [*words, *way.flags], "dreambooth"))[0])


def of_images(subject: Subject, scorers: Sequence[Scorer]) -> Means:
    """How alike the images of a subject are: each one beside the others."""
    pixels = subject.pixels()
    found: list[Mapping[str, Sequence[float]]] = []
    for place, image in enumerate(pixels):
        others = pixels[:place] + pixels[place + 1 :]
        asked = asked_of(["a {}"], subject.noun, 1, 0)
        found.append(score_all(scorers, [image], asked, others).likeness)
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def table_of(results: Results) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns and the rows of the table: mean and interval of each measure over the subjects."""
    columns = list(dict.fromkeys(n for way in results.values() for m in way.values() for n in m))
    rows = []
    for way, by_subject in results.items():
        cells = []
        for name in columns:
            values = [means[name] for means in by_subject.values() if name in means]
            if not values:
                cells.append("")
                continue
            low, high = interval(values)
            cells.append(f"{np.mean(values):.3f} ({low:.3f} to {high:.3f})")
        rows.append((f"{way}, {len(by_subject)} subjects", cells))
    return columns, rows


def markdown(results: Results) -> str:
    """The table in Markdown."""
    columns, rows = table_of(results)
    lines = [f"| way | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    return "\n".join(lines)


def latex(results: Results) -> str:
    """The table in LaTeX; the intervals are small."""
    columns, rows = table_of(results)
    lines = [f"\\begin{{tabular}}{{l{'c' * len(columns)}}}", "\\hline"]
    lines += [
        " & ".join(["Method", *(f"{name} $\\uparrow$" for name in columns)]) + r" \\",
        "\\hline",
    ]
    for name, cells in rows:
        small = [cell.replace("(", "{\\scriptsize (").replace(")", ")}") for cell in cells]
        lines.append(" & ".join([_escaped(name), *small]) + r" \\")
    return "\n".join([*lines, "\\hline", "\\end{tabular}"])


def _escaped(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "&%$#_{}" else sign for sign in text)


def by_subject(results: Results) -> str:
    """The numbers of each subject, in Markdown."""
    lines = []
    for way, of in results.items():
        columns = list(next(iter(of.values())))
        lines += [f"\n{way}\n", f"| subject | {' | '.join(columns)} |"]
        lines.append(f"|---|{'---|' * len(columns)}")
        for name, means in of.items():
            lines.append(f"| {name} | {' | '.join(f'{means[c]:.3f}' for c in columns)} |")
    return "\n".join(lines)


def measured(args: argparse.Namespace, results: Results) -> None:
    """Measure what the results lack, and keep them."""
    model = coinage.load_model(args.model)
    scorers: list[Scorer] = [
        coinage.DinoScorer.load(args.dino, model.device),
        coinage.ClipScorer.load(args.clip, model.device),
    ]
    subjects = subjects_in(args.folder)
    wanted = [subject for subject in subjects if not args.subjects or subject.name in args.subjects]
    ways = ways_of(args.train, args.words)
    due = [(way, s) for s in wanted for way in ways if s.name not in results.get(way.name, {})]
    for subject in wanted:
        if len(subject.images) > 1 and subject.name not in results.get(REAL, {}):
            results.setdefault(REAL, {})[subject.name] = of_images(subject, scorers)
    begun = time.monotonic()
    for number, (way, subject) in enumerate(due, 1):
        word = word_of(way, subject, args.model, args.output)
        evaluation = model.evaluate(
            word,
            scorers=scorers,
            images=subject.pixels(),
            prompts=subject.templates[: args.prompts],
            noun=subject.noun,
            count=args.count,
            steps=args.steps,
            guidance=args.cfg,
            sampler=args.sampler,
            batch_size=args.batch_size,
        )
        (scored,) = evaluation.words
        means = {name: float(np.mean(of)) for name, of in scored.scores.measures.items()}
        results.setdefault(way.name, {})[subject.name] = means
        if args.results:
            write_bytes(args.results, json.dumps(results, indent=1).encode())
        seconds = time.monotonic() - begun
        left = seconds / number * (len(due) - number)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        print(
            f"{way.name}, {subject.name}: {shown}; {number} of {len(due)}, {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the published data set")
    parser.add_argument("--model", required=True, help="draws, and words are trained for it")
    parser.add_argument("--clip", required=True, help="papers: openai/clip-vit-base-patch32")
    parser.add_argument("--dino", required=True, help="papers: facebook/dino-vits16")
    parser.add_argument("--train", nargs="+", default=[], metavar='"NAME: FLAGS"')
    parser.add_argument("--words", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), help="default: all")
    parser.add_argument("--prompts", type=int, default=25, help="the first of them; papers: 25")
    parser.add_argument("--count", type=int, default=COUNT, help="pictures of each; papers: 4")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cfg", type=float, default=7.5)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("dreambooth"), help="trained words")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--latex", type=Path)
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    quiet_libraries()
    results: Results = {}
    if args.results and args.results.is_file():
        results = json.loads(args.results.read_text(encoding="utf-8"))
    measured(args, results)
    print(markdown(results))
    print(by_subject(results))
    if args.latex:
        write_bytes(args.latex, (latex(results) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
