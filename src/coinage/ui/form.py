"""The form of a word: choices and flags, and the settings of a run that they make. Imports no torch."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from coinage.data.default_prompts import SAMPLER_STEPS, SEED, without_word
from coinage.errors import CoinageError, Problem, did_you_mean
from coinage.models.hub_files import native_side
from coinage.settings.build_log import given_flags
from coinage.settings.flag_values import ABOUT_THE_FILE, FlagValues
from coinage.settings.flags import Flag, flags_of
from coinage.settings.help_texts import help_in
from coinage.settings.mapping import merge, values_to_toml
from coinage.settings.ranges import range_problems
from coinage.settings.scripts import Script
from coinage.settings.toml_file import Settings
from coinage.settings.values import values_of_command
from coinage.system.files import write_bytes
from coinage.system.shell import line_break, quoted
from coinage.system.typed_json import decode
from coinage.text.placeholder import encodable
from coinage.ui.image_list import Pictures, pictures_of
from coinage.ui.models import Models
from coinage.ui.workspace import (
    LEADS_OUT,
    NotFoundError,
    WordFolder,
    read_json_or,
    write_json,
)

Kind = Literal["object", "style", "person"]
Length = Literal["quick", "normal", "long"]
STEPS: Mapping[Length, int | None] = {"quick": 300, "normal": None, "long": 3000}
PREVIEW_EVERY: Mapping[Length, int] = {"quick": 50, "normal": 100, "long": 300}
PERSON = "person"  # the init word of one
SENTENCES: Mapping[Kind, str] = {
    "object": "a photo of {}",
    "style": "a painting in the style of {}",
    "person": "a photo of {}",
}
MOST_VECTORS = 75
MOST_PROMPTS = 20
LONGEST_TOKEN, LONGEST_TEXT = 64, 2000
UNREADABLE = "the word's form is damaged, or a later version of Coinage has written it"
BEGIN_ANEW = "delete that file to begin the form anew; images and captions stay"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# Flags that the form's own parts decide
OWN = frozenset((
    "pretrained_model_name_or_path", "token_string", "num_vectors_per_token", "use_object_template",
    "use_style_template", "train_data_dir", "in_json", "conditioning_data_dir", "masked_loss", "output_dir",
    "output_name", "sample_prompts",
))  # fmt: skip
# Flags that the page has buttons for, or that make a run unlike one that it can follow
APART = frozenset((
    "dry_run", "debug_dataset", "quiet", "verbose", "console_log_level", "console_log_simple",
    "resume_from_huggingface", "dataset_class", "together", "train", "start_step", "end_step",
))  # fmt: skip
CAPTIONS, MASKS, PROMPTS = "captions.json", "run-masks", "sample-prompts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What was chosen in the page: word.json.

    Attributes:
        token: the new word.
        model: id of a model; "" before one is chosen.
        kind: of what the word stands for.
        vectors: of the word.
        length: of the run; `normal` ends by itself.
        prompts: of previews; none: some with the word, and the same without it.
        negative: prompt of the previews.
        flags: further ones with their dashes, and values as on a command line.
    """

    token: str
    model: str = ""
    kind: Kind = "object"
    vectors: int = 1
    length: Length = "normal"
    prompts: list[str] = field(default_factory=list)
    negative: str = ""
    flags: dict[str, str] = field(default_factory=dict)


def read_form(folder: WordFolder) -> Form:
    """Return the form of a word; one that is not there is a new one.

    Raises:
        CoinageError: it cannot be read.
    """
    try:
        return decode(Form, read_json_or(folder.form, {"token": folder.id}))
    except (CoinageError, ValueError, TypeError):
        raise CoinageError(UNREADABLE, str(folder.form), BEGIN_ANEW) from None


def write_form(folder: WordFolder, form: Form) -> None:
    """Write the form of a word.

    Raises:
        CoinageError: it cannot be written.
    """
    write_json(folder.form, asdict(form))


def form_problems(form: Form) -> list[Problem]:
    """Find everything that is wrong with a form by itself."""
    problems = token_problems(form.token)
    if not 1 <= form.vectors <= MOST_VECTORS:
        problems.append(
            Problem(f"the word cannot have {form.vectors} vectors", hint="choose 1 to 75")
        )
    if len(form.prompts) > MOST_PROMPTS:
        problems.append(
            Problem(f"more than {MOST_PROMPTS} prompts for previews", hint="leave some out")
        )
    texts = [*form.prompts, form.negative]
    if any(len(text) > LONGEST_TEXT or not encodable(text) for text in texts):
        problems.append(Problem("a prompt is too long", hint="write 2,000 characters at most"))
    return problems + _flag_values(form.flags)[1]


def token_problems(token: str) -> list[Problem]:
    """Find out whether a text may be a new word."""
    if not token:
        return [Problem("the word is empty", hint="write a new word, such as mychar")]
    if re.search(r"\s", token):
        hint = "write it as one word, such as my-char"
        return [Problem("the word has a space in it", hint=hint)]
    if len(token) > LONGEST_TOKEN or not token.isprintable() or not encodable(token):
        return [Problem("this cannot be a word", hint="write letters and digits, 64 at most")]
    return []


def panel_flags() -> dict[str, Flag]:
    """Return the flags that the page offers beside its choices, by their names with dashes.

    Flags that name files or folders are left out, since a page names nothing by its path.
    """
    flags = {}
    for flag in flags_of(Script.COINAGE):
        is_file = flag.path or flag.kind == "path"
        is_elsewhere = flag.dest in OWN or flag.dest in APART or flag.dest in ABOUT_THE_FILE
        if not (is_file or is_elsewhere or flag.secret or flag.group == "several processes"):
            flags[flag.name] = flag
    return flags


def shown_flags(language: str = "en") -> list[dict[str, Any]]:
    """Return what the page needs to know of each flag that it offers, with help in `en` or `ja`."""
    shown = []
    for flag in panel_flags().values():
        limits = flag.range and {"least": flag.range.least, "most": flag.range.most}
        shown.append(
            {
                "name": flag.name,
                "kind": flag.kind,
                "default": flag.shown_default,
                "choices": [str(choice) for choice in flag.choices],
                "help": help_in(language, flag),
                "group": flag.group,
                "range": limits,
            }
        )
    return shown


def _flag_values(given: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values of the form's flags by name without dashes, and what is wrong with them."""
    flags = panel_flags()
    known: dict[str, Any] = {}
    problems = []
    for name, text in given.items():
        if name not in flags:
            what = f"{name} is not a flag that can be set here"
            problems.append(Problem(what, hint=did_you_mean(name, list(flags))))
        elif not encodable(text) or "\0" in text:
            problems.append(Problem(f"{name}: this is not text in UTF-8"))
        elif text.strip():
            is_list = flags[name].kind == "list"
            known[name.removeprefix("--")] = _words(text) if is_list else text.strip()
    values, wrong = values_of_command(known, {flag.dest: flag for flag in flags.values()})
    merged, _ = merge(Script.COINAGE, _by_dest(), values, Settings())
    return values, [*problems, *wrong, *range_problems(merged).values()]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _by_dest() -> dict[str, Flag]:
    return {flag.dest: flag for flag in flags_of(Script.COINAGE)}


# The run's settings


@dataclass(frozen=True, slots=True)
class Run:
    """The settings of a run, as files and commands have them.

    Attributes:
        values: of all flags.
        problems: all that is wrong with the form.
    """

    values: FlagValues
    problems: list[Problem]

    @property
    def toml(self) -> str:
        """The settings as `--config_file` takes them."""
        return values_to_toml(self.values)

    @property
    def command(self) -> str:
        """The settings as this system's shell takes them."""
        lines = [Script.COINAGE.program]
        for flag in given_flags(self.values):
            if len(flag.arguments) > 1:
                lines.append(quoted([flag.name, *flag.arguments]))
            else:
                lines.append(quoted(["=".join((flag.name, *flag.arguments))]))
        return line_break().join(lines)


def run_of(folder: WordFolder, form: Form, models: Models, pictures: Pictures | None = None) -> Run:
    """Return the settings that a form makes, without writing anything.

    Args:
        folder: of the word.
        form: that was filled in.
        models: that may be chosen.
        pictures: those of the folder, if they are known already.
    """
    pictures = pictures or pictures_of(folder)
    problems = form_problems(form)
    source, wrong = _source(form, models)
    problems += wrong
    for place in (folder.images, folder.masks, folder.output):
        if not folder.holds(place):
            problems.append(Problem(LEADS_OUT, place.name, "put what it leads to in its place"))
    if not pictures.ids:
        problems.append(Problem("there are no images", hint="add some, ten are a good number"))
    own = _own_values(folder, form, source, pictures)
    chosen, _ = _flag_values(form.flags)
    values, wrong = merge(Script.COINAGE, _by_dest(), {**own, **chosen}, Settings())
    return Run(values, list(dict.fromkeys([*problems, *wrong])))


def _source(form: Form, models: Models) -> tuple[str, list[Problem]]:
    """Return the model's file, folder or hub id, and what is wrong with it."""
    if not form.model:
        return "", [Problem("no model is chosen", hint="choose one")]
    try:
        model = models.find(form.model)
    except NotFoundError:
        return "", [Problem("the model is not there any more", hint="choose another one")]
    if not model.source or (model.problem and model.family is None and model.kind != "hub"):
        return model.source, [
            Problem(f"{model.name}: {model.problem}", hint="choose another model")
        ]
    return model.source, []


def _own_values(folder: WordFolder, form: Form, source: str, pictures: Pictures) -> dict[str, Any]:
    """Return the flags that the form's own parts stand for."""
    values: dict[str, Any] = {
        "pretrained_model_name_or_path": source or None,
        "train_data_dir": str(folder.images),
        "token_string": form.token,
        "num_vectors_per_token": form.vectors,
        "output_dir": str(folder.output),
    }
    if not PLAIN_NAME.fullmatch(form.token):
        values["output_name"] = folder.id
    if not pictures.captions:
        template = "use_style_template" if form.kind == "style" else "use_object_template"
        values[template] = True
    elif len(pictures.captions) < len(pictures.ids):
        values["in_json"] = str(folder.path / CAPTIONS)
    if form.kind == "person" and not {"--init_word", "--weights"} & set(form.flags):
        values["init_word"] = PERSON
    if pictures.masks:
        values |= {"masked_loss": True, "conditioning_data_dir": str(folder.path / MASKS)}
    steps = STEPS[form.length]
    if steps and not {"--max_train_steps", "--max_train_epochs"} & set(form.flags):
        values["max_train_steps"] = steps
    if form.prompts:
        values |= {"sample_prompts": str(folder.path / PROMPTS), "sample_at_first": True}
        if not {"--sample_every_n_steps", "--sample_every_n_epochs"} & set(form.flags):
            values["sample_every_n_steps"] = PREVIEW_EVERY[form.length]
    return values


def write_run(folder: WordFolder, form: Form, models: Models) -> list[Problem]:
    """Write what a run reads: run.toml, prompts, captions of images without one, masks.

    Returns:
        What is wrong; nothing is written then.

    Raises:
        CoinageError: a file cannot be written.
    """
    pictures = pictures_of(folder)
    run = run_of(folder, form, models, pictures)
    if run.problems:
        return run.problems
    if form.prompts:
        side = native_side(str(run.values.pretrained_model_name_or_path))
        write_json(folder.path / PROMPTS, _prompts(form, side))
    if 0 < len(pictures.captions) < len(pictures.ids):
        sentence = SENTENCES[form.kind].format(form.token)
        captions = {
            pictures.files[image]: {"caption": pictures.captions.get(image, sentence)}
            for image in pictures.ids
        }
        write_json(folder.path / CAPTIONS, captions)
    if pictures.masks:
        _write_masks(folder, pictures)
    write_bytes(folder.run_settings, run.toml.encode())
    return []


def _prompts(form: Form, side: int | None) -> list[dict[str, Any]]:
    """Return the prompts of previews, each also without the word; all of one seed, to be compared.

    Pictures are as large as the model draws by itself.
    """
    entries: list[dict[str, Any]] = []
    for text in form.prompts:
        entries.append({"prompt": text})
        rest = without_word(text, form.token)
        if rest and rest != text:
            entries.append({"prompt": rest, "compared_with": len(entries)})
    size = {"width": side, "height": side} if side else {}
    same = {"seed": SEED, "sample_steps": SAMPLER_STEPS, **size}
    negative = {"negative_prompt": form.negative} if form.negative else {}
    return [{**entry, **negative, **same} for entry in entries]


def _write_masks(folder: WordFolder, pictures: Pictures) -> None:
    """Give each image a mask, since training wants one of each: white where it has none."""
    place = folder.path / MASKS
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for image in pictures.ids:
            path = place / f"{image}.png"
            if image in pictures.masks:
                _link(folder.masks / path.name, path)
            else:
                Image.new("1", pictures.sizes[image], 1).save(path)
    except OSError as error:
        raise CoinageError(f"cannot write the masks: {error.strerror}", str(place)) from error


def _link(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the disk cannot."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def with_changes(form: Form, changes: Mapping[str, Any]) -> Form:
    """Return a form with some of its parts changed.

    Raises:
        ValueError: a value is of another type, or a part is unknown.
    """
    cleaned = dict(changes)
    if isinstance(cleaned.get("prompts"), list):
        cleaned["prompts"] = [text for text in cleaned["prompts"] if text != ""]
    if isinstance(cleaned.get("token"), str):
        cleaned["token"] = cleaned["token"].strip()
    return decode(Form, {**asdict(form), **cleaned}, exact=True)
