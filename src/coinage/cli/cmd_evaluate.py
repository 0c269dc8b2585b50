"""`coinage evaluate`: score learned words, and checkpoints of a word, side by side."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.checks.model import model_problems, vae_problems
from coinage.checks.output import make_folder
from coinage.cli.cmd_generate import (
    add_model_flags,
    free_path,
    model_config,
    note_idle_flags,
    open_model,
)
from coinage.cli.parse import Parser
from coinage.config import ModelConfig
from coinage.data.folder import list_folder, suffix_of
from coinage.data.images import decode
from coinage.data_config import ImageRules
from coinage.errors import CoinageError, Findings, Problem
from coinage.models.hub_files import native_side
from coinage.models.text_encoder_sizes import text_encoder_sizes
from coinage.scoring.encoder_files import encoder_problems
from coinage.scoring.prompts import PROMPT_SETS, templates_of
from coinage.scoring.results import Estimate, Evaluation, ScoredWord, drift_values
from coinage.system.files import write_bytes
from coinage.system.text_files import is_folder
from coinage.terminal import progress
from coinage.terminal.messages import print_json, print_line, print_table
from coinage.text.prompts import Prompt
from coinage.text.samplers import SAMPLER_NAMES
from coinage.wording import counted

if TYPE_CHECKING:
    from coinage.scoring.evaluate import Candidate, Trial
    from coinage.scoring.scorer import Pixels, Scorer

log = logging.getLogger("coinage")
SUFFIXES = (".safetensors", ".pt", ".bin")  # of the words of a folder
TABLE_WIDTH = 160  # columns that the table may take, also in a narrow or unknown terminal
# Flags with their least and largest values
RANGES = (
    ("count", 1, 1000),
    ("steps", 1, 1000),
    ("seed", 0, 2**63),
    ("batch_size", 1, 1000),
    ("cfg", -1000, 1000),
)
EXAMPLES = f"""\
examples:
  coinage evaluate mychar.safetensors --model path/to/model
  coinage evaluate output --model path/to/model --images photos --clip path/to/clip --dino path/to/dino
  coinage evaluate a.safetensors b.pt --model sdxl.safetensors --clip path/to/clip --prompts style

Prompts are {", ".join(PROMPT_SETS)} (those of DreamBooth, and of styles), or a text file: one a line,
with {{}} where the word stands.
"""


def evaluate_parser() -> Parser:
    """Return the parser of `coinage evaluate`."""
    parser = Parser(
        prog="coinage evaluate",
        description="Score words: do pictures show what they mean, and obey the rest of a prompt?",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    folder = "Embedding files, or folders of them, such as a run's checkpoints."
    add("words", nargs="+", type=Path, metavar="WORD", help=folder)
    add("--model", required=True, help="Draws: a file, a diffusers folder or a hub id.")
    add("--images", type=Path, help="Folder of images of what the word means.")
    add("--clip", help="CLIP, for CLIP-I and CLIP-T: a transformers folder or a hub id.")
    add("--dino", help="DINO, DINOv2 or DINOv3: a transformers folder or a hub id.")
    named = "object, live, style, or a text file. Default: object."
    add("--prompts", default="object", metavar="NAME", help=named)
    noun = 'What the word is a kind of, for CLIP-T. Default: the init word in its file; "": none.'
    add("--class", dest="noun", help=noun)
    add("--count", type=int, default=2, help="Pictures of each prompt. Default: 2.")
    add("--seed", type=int, default=0, help="Of the first picture of each prompt. Default: 0.")
    add("--steps", type=int, default=30, help="Sampling steps. Default: 30.")
    add("--cfg", type=float, help="Guidance scale. Default: 7.5, FLUX.1: 3.5.")
    names = ", ".join(SAMPLER_NAMES)
    add("--sampler", default="ddim", choices=SAMPLER_NAMES, metavar="NAME", help=f"{names}.")
    add("--batch_size", type=int, default=1, help="Pictures drawn together. Default: 1.")
    output = "Output folder; earlier files are kept. Default: scores."
    add("--output", type=Path, default=Path("scores"), help=output)
    add("--json", action="store_true", help="Print everything as JSON.")
    add_model_flags(parser)
    return parser


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What is read before the model is."""

    candidates: Sequence[Candidate]
    trial: Trial
    scorers: Sequence[Scorer]
    references: Sequence[Pixels]


def evaluate_command(argv: Sequence[str]) -> None:
    """Run `coinage evaluate`.

    Raises:
        ConfigError: flags, words, images, encoders or the model cannot be used: all problems together.
        CoinageError: the model cannot draw, or a file cannot be written.
    """
    args = evaluate_parser().parse_args(argv)
    model = model_config(args)
    findings = Findings(errors=model_problems(model) + vae_problems(model))
    templates, files, images = _check(args, findings)
    inputs = _read(args, model, templates, files, images, findings)
    note_idle_flags(args, model)
    evaluation = _evaluate(args, model, inputs)
    _write(args.output, evaluation)
    if args.json:
        print_json(evaluation.as_plain())
    else:
        print_evaluation(evaluation)


def _check(
    args: argparse.Namespace, findings: Findings
) -> tuple[Sequence[str], list[Path], list[Path]]:
    """Return prompts, files of words and images; what is wrong with flags and names is in `findings`."""
    templates: Sequence[str] = ()
    try:
        templates = templates_of(args.prompts)
    except CoinageError as error:
        findings.errors += [Problem(f"--{p.what}", p.where, p.hint) for p in error.problems]
    if args.clip is not None:
        findings.errors += encoder_problems("clip", args.clip, "--clip")
    if args.dino is not None:
        findings.errors += encoder_problems("dino", args.dino, "--dino")
    if args.dino is not None and args.images is None:
        hint = "give a folder of images of what the word means"
        findings.error("--dino needs --images", hint=hint)
    for name, low, high in RANGES:
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            findings.error(f"--{name} {value} is out of range", hint=f"use {low} to {high}")
    images = [] if args.images is None else _images_in(args.images, findings)
    return templates, _files_of(args.words, findings), images


def _images_in(folder: Path, findings: Findings) -> list[Path]:
    before = len(findings.errors)
    contents = list_folder(folder, "--images", "folder", findings)
    if not contents.images and len(findings.errors) == before:
        hint = "give a folder with images of what the word means"
        findings.error("--images: no images in the folder", str(folder), hint)
    return [Path(contents.paths[name]) for name in contents.images]


def _files_of(words: Sequence[Path], findings: Findings) -> list[Path]:
    """Return the files of words, those of folders in the order of their names."""
    files: list[Path] = []
    for path in words:
        if not is_folder(path):
            files.append(path)
            continue
        before = len(findings.errors)
        contents = list_folder(path, "WORD", "folder", findings)
        inside = [name for name in sorted(contents.paths) if suffix_of(name) in SUFFIXES]
        if not inside and len(findings.errors) == before:
            hint = f"files of words end in {', '.join(SUFFIXES)}"
            findings.error("no words in the folder", str(path), hint)
        files += [Path(contents.paths[name]) for name in inside]
    return list(dict.fromkeys(files))


def _read(
    args: argparse.Namespace,
    model: ModelConfig,
    templates: Sequence[str],
    files: Sequence[Path],
    images: Sequence[Path],
    findings: Findings,
) -> _Inputs:
    """Read words, images and encoders. Everything heavy is imported here.

    Raises:
        ConfigError: with all problems, those found before included.
    """
    from coinage.models.quiet import quiet_libraries
    from coinage.scoring.evaluate import Trial

    quiet_libraries()
    candidates = _candidates(args, model, files, findings)
    references = _references(images, findings)
    side = native_side(args.model) or 0  # of the family
    prompt = Prompt(
        text="", width=side, height=side, steps=args.steps, scale=args.cfg, sampler=args.sampler
    )
    trial = Trial(templates, args.count, args.seed, prompt)
    scorers = [] if findings.errors else _scorers(args, candidates, trial, findings)
    if not findings.errors:
        findings.errors += make_folder(args.output, "--output")
    findings.raise_errors()
    return _Inputs(candidates, trial, scorers, references)


def _candidates(
    args: argparse.Namespace, model: ModelConfig, files: Sequence[Path], findings: Findings
) -> list[Candidate]:
    """Return the words in files; of a folder, what is no word is left out with a warning."""
    from coinage.embeddings.base_model import base_of_model, log_other_base
    from coinage.embeddings.install import misfit
    from coinage.embeddings.pairs import open_with_other_half
    from coinage.embeddings.reading import log_reading
    from coinage.scoring.evaluate import Candidate, noun_for

    sizes = text_encoder_sizes(model)
    keys, widths = [size.key for size in sizes], [size.width or 0 for size in sizes]
    base = base_of_model(model)
    found = []
    for path in files:
        try:
            opened = open_with_other_half(path)
            word = opened.usable_word()
        except CoinageError as error:
            if path in args.words:
                findings.errors += error.problems
            else:
                log.warning("left out: %s", error)
            continue
        log_reading(path, opened)
        problem = misfit(word.vectors, keys, widths, str(path)) if all(widths) else None
        findings.errors += [problem] if problem else []
        log_other_base(str(path), word.metadata, base)
        if word.metadata.get("ti.role") == "negative":
            log.warning("%s is for the negative prompt; here it stands in the prompt", path)
        found.append(Candidate(_name(path, files), word, noun_for(word, args.noun)))
    if not found and not findings.errors:
        findings.error("no word can be read", ", ".join(map(str, args.words)))
    return found


def _name(path: Path, files: Sequence[Path]) -> str:
    """Return a file's name without its suffix; its path where others have the same name."""
    alone = [other.stem for other in files].count(path.stem) == 1
    return path.stem if alone else str(path)


def _references(images: Sequence[Path], findings: Findings) -> list[Pixels]:
    """Return the pixels of images, upright; those that cannot be read are in `findings`."""
    import numpy as np

    found = []
    for path in images:
        try:
            found.append(np.asarray(decode(path, ImageRules())[0]))
        except CoinageError as error:
            findings.errors += error.problems
    return found


def _scorers(
    args: argparse.Namespace, candidates: Sequence[Candidate], trial: Trial, findings: Findings
) -> list[Scorer]:
    """Return the scorers that the flags ask for; what is wrong with them is in `findings`."""
    from coinage.scoring.encoders import ClipScorer, DinoScorer
    from coinage.system.accelerator import default_device

    scorers: list[Scorer] = []
    device = default_device()
    for flag, source in (("--clip", args.clip), ("--dino", args.dino)):
        if source is None:
            continue
        log.info("loading %s", source)
        try:
            if flag == "--dino":
                scorers.append(DinoScorer.load(source, device))
                continue
            clip = ClipScorer.load(source, device)
        except CoinageError as error:
            findings.errors += [
                Problem(f"{flag}: {p.what}", p.where, p.hint) for p in error.problems
            ]
            continue
        nouns = dict.fromkeys(one.noun for one in candidates)
        findings.errors += clip.problems([one for noun in nouns for one in trial.asked(noun)])
        scorers.append(clip)
    return scorers


def _evaluate(args: argparse.Namespace, model: ModelConfig, inputs: _Inputs) -> Evaluation:
    """Load the model, draw and score."""
    from coinage.models.families import FAMILIES
    from coinage.scoring.evaluate import Studio, score_words

    loaded = open_model(args, model.family)
    studio = Studio(
        FAMILIES[model.family], loaded.parts, partial(loaded.draw, batch_size=args.batch_size)
    )
    trial, number = inputs.trial, count(1)
    pictures = len(inputs.candidates) * len(trial.templates) * trial.count
    if not inputs.scorers:
        log.info("nothing is drawn; --clip and --dino score pictures")
        pictures = 0
    with progress.counted("drawing", pictures) as on_count:
        words = score_words(
            inputs.candidates,
            studio,
            trial,
            inputs.scorers,
            inputs.references,
            lambda: on_count(next(number)),
        )
    return Evaluation(args.model, tuple(words), _settings(args, inputs))


def _settings(args: argparse.Namespace, inputs: _Inputs) -> str:
    """Return a sentence on what all pictures have in common."""
    if not inputs.scorers:
        return "No pictures were drawn."
    prompts = counted(len(inputs.trial.templates), "prompt")
    drawn = f"{prompts} ({Path(args.prompts).name}), {counted(args.count, 'picture')} of each"
    guidance = "the model's own guidance" if args.cfg is None else f"guidance {args.cfg:g}"
    how = f"{args.steps} steps of {args.sampler}, {guidance}, seeds from {args.seed}"
    compared = (
        f"compared with {counted(len(inputs.references), 'image')}" if inputs.references else ""
    )
    encoders = [f"{Path(source).name}" for source in (args.clip, args.dino) if source]
    return (
        "; ".join(filter(None, (drawn, how, compared, f"scored by {' and '.join(encoders)}"))) + "."
    )


def _write(folder: Path, evaluation: Evaluation) -> None:
    """Write the page and the tables; earlier ones stay."""
    from coinage.scoring.page import render_scores

    page = free_path(folder / "scores.html")
    write_bytes(page, render_scores(evaluation).encode())
    write_bytes(page.with_suffix(".csv"), evaluation.as_csv().encode())
    if evaluation.best:
        pictures = page.with_name(f"{page.stem}-pictures.csv")
        write_bytes(pictures, evaluation.pictures_as_csv().encode())
    log.info("look at %s", page)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print one line for each word on stdout."""
    first = evaluation.words[0]
    scores, drift = list(first.estimates), _drift_columns(evaluation)
    columns = ["word", *scores, *drift, "nearest word"]
    rows = [[*_cells(word, scores, drift), _nearest(word)] for word in evaluation.words]
    print_table(columns, rows, right=range(1, len(columns) - 1), least_width=TABLE_WIDTH)
    best = evaluation.best
    if best and len(evaluation.words) > 1:
        print_line(f"highest score: {best.name}")


def _drift_columns(evaluation: Evaluation) -> list[str]:
    names = [name for word in evaluation.words for name in drift_values(word.drift)]
    return list(dict.fromkeys(names))


def _cells(word: ScoredWord, scores: Sequence[str], drift: Sequence[str]) -> list[str]:
    estimates, values = word.estimates, drift_values(word.drift)
    cells = [_shown(estimates[name]) for name in scores]
    return [word.name, *cells, *(f"{values[n]:.2f}" if n in values else "-" for n in drift)]


def _shown(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def _nearest(word: ScoredWord) -> str:
    """Return the nearest word of the first vector, with its cosine."""
    name, cosine = word.drift.nearest[0]
    return f"{name} {cosine:.2f}"
