"""`coinage generate`: draw prompts, with learned words."""

from __future__ import annotations

import argparse
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coinage.checks.flow import set_aside_drawing_flags
from coinage.checks.model import model_problems, vae_problems
from coinage.checks.output import make_folder
from coinage.cli.parse import Parser
from coinage.config import ModelConfig
from coinage.errors import ConfigError, Findings, Problem
from coinage.models.facts import DEFAULT, FACTS, FamilyFacts
from coinage.models.hub_files import detect_family, native_side
from coinage.report.word_maps import map_path, overlay
from coinage.seeding import draw_seed
from coinage.settings.scripts import Script, asked_family
from coinage.system.text_files import is_file, no_file
from coinage.terminal import progress
from coinage.text.placeholder import encoding_problems
from coinage.text.prompts import Prompt
from coinage.text.samplers import SAMPLER_NAMES
from coinage.wording import counted

if TYPE_CHECKING:
    from coinage.api import Model
    from coinage.generate import Drawn

log = logging.getLogger("coinage")
# Flags with their least and largest values
RANGES = (
    ("steps", 1, 1000),
    ("count", 1, 10_000),
    ("width", 0, 8192),
    ("height", 0, 8192),
    ("seed", 0, 2**63),
    ("cfg", -1000, 1000),
)
NUMBERED = re.compile(r"([0-9]{1,9})_.*\.png")  # a picture of an earlier command
EXAMPLES = """\
examples:
  coinage generate path/to/model "a photo of mychar on a beach" --embedding output/mychar.safetensors
  coinage generate model.safetensors "mychar, (red:1.3) hat" --embedding mychar.safetensors --count 4 --grid
  coinage generate path/to/model "mychar on a beach" --embedding mychar.safetensors --show-word
  coinage generate sdxl.safetensors "a castle" --negative "blurry" --steps 25 --cfg 6 --sampler euler_a
"""


def _named(item: str) -> tuple[str, Path]:
    """Split NAME=FILE; FILE alone has no name."""
    name, _, path = ("", "", item) if is_file(item) else item.rpartition("=")
    return name, Path(path)


def generate_parser() -> Parser:
    """Return the parser of `coinage generate`."""
    parser = Parser(
        prog="coinage generate",
        description="Draw pictures, with or without learned words.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", help="A .safetensors or .ckpt file, a diffusers folder, or a hub id."
    )
    parser.add_argument(
        "prompts",
        nargs="+",
        metavar="PROMPT",
        help="What to draw; (word:1.3) gives a word more weight.",
    )
    parser.add_argument(
        "--embedding",
        nargs="+",
        action="extend",
        default=[],
        type=_named,
        metavar="FILE",
        help="Learned words; NAME=FILE renames one.",
    )
    parser.add_argument("--negative", default="", help="What not to draw.")
    parser.add_argument("--steps", type=int, default=30, help="Sampling steps. Default: 30.")
    parser.add_argument("--cfg", type=float, help="Guidance scale. Default: 7.5, FLUX.1: 3.5.")
    parser.add_argument(
        "--sampler",
        default="ddim",
        choices=SAMPLER_NAMES,
        metavar="NAME",
        help=f"{', '.join(SAMPLER_NAMES)}.",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="Of the first picture; the next ones count up. Default: drawn and printed.",
    )
    parser.add_argument("--count", type=int, default=1, help="Pictures per prompt. Default: 1.")
    parser.add_argument(
        "--width", type=int, default=0, help="Pixels. Default: the size that the model is made for."
    )
    parser.add_argument("--height", type=int, default=0, help="Pixels. Default: as for --width.")
    parser.add_argument(
        "--grid",
        action="store_true",
        help="Also write all in one picture, grid.png: a row for each prompt.",
    )
    parser.add_argument(
        "--show-word",
        action="store_true",
        help="Beside each picture, also write NAME.word.png: where in it the learned word acts.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("pictures"),
        help="Output folder; earlier pictures are kept. Default: pictures.",
    )
    add_model_flags(parser)
    return parser


def add_model_flags(parser: Parser) -> None:
    """Add the flags that say how a model is read and computed with."""
    parser.add_argument(
        "--v2",
        action="store_true",
        help="The model is Stable Diffusion 2.x; needed only if this is not detected.",
    )
    parser.add_argument(
        "--v_parameterization",
        action="store_true",
        help="The model predicts v instead of the noise.",
    )
    parser.add_argument(
        "--zero_terminal_snr",
        action="store_true",
        help="Its noise schedule ends in pure noise; for models that predict v.",
    )
    parser.add_argument("--vae", help="Another VAE: a file, a diffusers folder or a hub id.")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "no", "fp16", "bf16"),
        help="auto: fp16 on a GPU, otherwise fp32.",
    )
    parser.add_argument(
        "--tokenizer_cache_dir", type=Path, help="Folder of tokenizers for single files."
    )


def model_config(args: argparse.Namespace) -> ModelConfig:
    """Return the model of the flags; its family as found, or as `--v2` says."""
    facts = asked_family(Script.COINAGE, v2=args.v2) or DEFAULT
    return ModelConfig(
        source=args.model,
        family=detect_family(args.model) or facts.name,
        vae=args.vae,
        prediction_type="v_prediction" if args.v_parameterization else None,
        zero_terminal_snr=args.zero_terminal_snr,
        tokenizer_cache=args.tokenizer_cache_dir,
    )


def note_idle_flags(args: argparse.Namespace, model: ModelConfig) -> None:
    """Take back the flags that mean nothing to the model, and log which they are."""
    for note in set_aside_drawing_flags(args, FACTS[model.family]):
        log.info("note: %s", note)


def _fit_sides(args: argparse.Namespace, facts: FamilyFacts) -> None:
    """Make sides smaller that no picture of the family can have, and log it."""
    for name in ("width", "height"):
        asked = getattr(args, name)
        side = asked // facts.size_unit * facts.size_unit
        if side != asked:
            why = f"sides of {facts.display_name} are multiples of {facts.size_unit} pixels"
            log.info("note: --%s %d becomes %d: %s", name, asked, side, why)
            setattr(args, name, side)


def generate_command(argv: Sequence[str]) -> None:
    """Run `coinage generate`.

    Raises:
        ConfigError: wrong flags, model or embeddings.
        CoinageError: a file cannot be read or written.
    """
    args = generate_parser().parse_args(argv)
    model = model_config(args)
    _check(args, model)
    note_idle_flags(args, model)
    _fit_sides(args, FACTS[model.family])
    _draw(args, model.family, prompts_of(args))


def prompts_of(args: argparse.Namespace) -> list[Prompt]:
    """Return what to draw: each prompt `--count` times, with seeds that count up.

    A size that is not given is that of the model.
    """
    seed = draw_seed() if args.seed is None else args.seed
    side = 0  # the family's own
    if not (args.width and args.height):
        side = native_side(args.model) or 0
    prompts = []
    for text in args.prompts:
        for number in range(args.count):
            prompt = Prompt(
                text=text,
                negative=args.negative,
                width=(args.width or side) // 8 * 8,
                height=(args.height or side) // 8 * 8,
                seed=seed + number,
                steps=args.steps,
                scale=args.cfg,
                sampler=args.sampler,
            )
            prompts.append(prompt)
    return prompts


def _check(args: argparse.Namespace, model: ModelConfig) -> None:
    """Check that model, files, numbers and folder can be used, before anything is loaded."""
    findings = Findings(errors=model_problems(model) + vae_problems(model))
    texts = [("the prompt", text) for text in args.prompts]
    texts += [("--embedding", name) for name, _ in args.embedding]
    findings.errors += encoding_problems([*texts, ("--negative", args.negative)])
    for _, file in args.embedding:
        if not is_file(file):
            findings.error(f"--embedding: {no_file(file)}", str(file))
    if args.show_word and not args.embedding:
        findings.error("--show-word: there is no learned word", hint="give it: --embedding FILE")
    for name, low, high in RANGES:
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            findings.error(f"--{name} {value} is out of range", hint=f"use {low} to {high}")
    for name in ("width", "height"):
        if 0 < getattr(args, name) < 64:
            findings.error(f"--{name} {getattr(args, name)} is too small", hint="use at least 64")
    if not findings.errors:
        findings.errors += make_folder(args.output, "--output")
    findings.raise_errors()


def open_model(args: argparse.Namespace, family: str) -> Model:
    """Load the model of the flags on this machine's device. Everything heavy is imported here.

    Raises:
        ConfigError: the device cannot compute as `--precision` says.
        CoinageError: a file cannot be read.
    """
    from coinage.api import load_model
    from coinage.checks.device import device_findings
    from coinage.models.process_fit import fit_process
    from coinage.system.accelerator import look_at
    from coinage.training.processes import start_processes

    _, device = start_processes(None)  # the one that training takes, whatever its kind
    found = device_findings(look_at(device), args.precision)
    found.raise_errors()
    for warning in found.warnings:
        log.warning("%s", warning)
    log.info("loading %s", args.model)
    model = load_model(
        args.model,
        family=family,
        vae=args.vae,
        precision=None if args.precision == "auto" else args.precision,
        device=device,
        prediction_type="v_prediction" if args.v_parameterization else None,
        zero_terminal_snr=args.zero_terminal_snr,
        tokenizer_cache=args.tokenizer_cache_dir,
    )
    fit_process(model.parts)
    return model


def _load(args: argparse.Namespace, family: str) -> Model:
    """Load the model, and install the words in it.

    Raises:
        ConfigError: words cannot be used with the model, or with each other: all problems together.
        CoinageError: a file cannot be read, or is for another kind of model.
    """
    from coinage.embeddings.pairs import open_with_other_half
    from coinage.embeddings.reading import log_reading, words_in_lora
    from coinage.models.quiet import quiet_libraries

    quiet_libraries()
    words = []
    for name, path in args.embedding:
        wanted_words: list[str | None] = [name] if name else [*words_in_lora(path)] or [None]
        for wanted in wanted_words:
            opened = open_with_other_half(path, wanted)
            log_reading(path, opened)
            word = opened.usable_word()
            words.append((name or word.token or path.stem, word))
    model = open_model(args, family)
    problems = name_conflicts(name for name, _ in words)
    for name, word in words:
        try:
            model.install(word, name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return model


def name_conflicts(names: Iterable[str]) -> list[Problem]:
    """Return a problem for each word that two files give."""
    hint = "rename one: NAME=FILE"
    problems = []
    for name, count in Counter(names).items():
        if count > 1:
            problems.append(Problem(f"--embedding: two files give the word {name}", hint=hint))
    return problems


def _draw(args: argparse.Namespace, family: str, prompts: Sequence[Prompt]) -> None:
    """Load the model, draw the prompts, and write the pictures."""
    import numpy as np

    from coinage.models.guidance import idle_negative
    from coinage.system.files import save_image

    model = _load(args, family)
    if args.negative and (why := idle_negative(FACTS[family], model.parts, args.cfg)):
        log.info("note: --negative has no effect: %s", why)
    for name, word in model.words.items():
        used = any(name in prompt.text or name in prompt.negative for prompt in prompts)
        unused = "" if used else " (not in any prompt)"
        log.info("%s: %s%s", name, counted(word.num_vectors, "vector"), unused)
    pictures, first, any_map = [], next_number(args.output), False
    with progress.counted("drawing", len(prompts)) as on_picture:
        all_drawn = model.draw_with_maps(prompts, show_words=args.show_word)
        for number, (prompt, drawn) in enumerate(zip(prompts, all_drawn, strict=True)):
            path = args.output / f"{first + number:04d}_{prompt.seed}.png"
            save_image(path, drawn.pixels)
            pictures.append(drawn.pixels)
            on_picture(number + 1)
            log.info("%s: %s", path, prompt.text)
            _write_maps(path, drawn)
            any_map = any_map or bool(drawn.word_maps)
    if args.show_word and not any_map:
        why = "no prompt holds a learned word, or only the negative one, without guidance"
        log.warning("--show-word draws nothing: %s", why)
    if args.grid:
        starts = range(0, len(pictures), args.count)
        rows = [np.concatenate(pictures[i : i + args.count], axis=1) for i in starts]
        path = free_path(args.output / "grid.png")
        save_image(path, np.concatenate(rows))
        log.info("%s", path)


def _write_maps(picture: Path, drawn: Drawn) -> None:
    """Write where each word acts, beside the picture."""
    from coinage.system.files import save_image

    for number, (word, word_map) in enumerate(drawn.word_maps.items()):
        path = map_path(picture, number)
        save_image(path, overlay(drawn.pixels, word_map))
        log.info("%s: where %s acts", path, word)


def next_number(folder: Path) -> int:
    """Return the number after the largest that a picture in the folder has; 0 for the first."""
    largest = -1
    for path in folder.glob("*_*.png"):
        match = NUMBERED.fullmatch(path.name)
        if match:
            largest = max(largest, int(match[1]))
    return largest + 1


def free_path(path: Path) -> Path:
    """Return the path, or the first of path_2, path_3 and so on that is free."""
    free = path
    for number in itertools.count(2):
        if not free.exists():
            break
        free = path.with_stem(f"{path.stem}_{number}")
    return free
