"""Read a pasted TOML or command as a form. Imports no torch.

Only what a word may be made of is taken over. Files and folders that a text names are not opened, but for
those of words of this workspace.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coinage.errors import CoinageError, ConfigError, Problem
from coinage.settings.flags import Flag, flags_of
from coinage.settings.foreign import meant, to_be_seen
from coinage.settings.scripts import Script
from coinage.settings.toml_file import flat
from coinage.settings.values import values_of_command, values_of_file
from coinage.ui.form import (
    OWN,
    PERSON,
    PREVIEW_EVERY,
    PROMPTS,
    STEPS,
    Form,
    form_problems,
    panel_flags,
    read_form,
)
from coinage.ui.models import Models
from coinage.ui.workspace import Workspace

WHERE = "the pasted text"
NEXT_LINE = re.compile(r"[\\^`][ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class Reopened:
    """A form that a text fills in.

    Attributes:
        form: the choices.
        notes: what of the text was left out.
        images_of: id of the word whose images it trains on; "" if they are not in this workspace.
    """

    form: Form
    notes: list[str] = field(default_factory=list)
    images_of: str = ""


def reopened(text: str, workspace: Workspace, models: Models) -> Reopened:
    """Return the form that a TOML or a command makes.

    Raises:
        ConfigError: everything that is wrong with the text.
    """
    flags = {flag.dest: flag for flag in flags_of(Script.COINAGE)}
    values, problems = _values(text, flags)
    if not values.get("token_string") and not problems:
        problems.append(Problem("the text names no word", WHERE, "add --token_string mychar"))
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    form, notes = _form(values, workspace, models)
    problems = form_problems(form)
    if problems:
        raise ConfigError(problems)
    return Reopened(form, notes, _word_of(values.get("train_data_dir"), workspace, "images"))


def _values(text: str, flags: Mapping[str, Flag]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values of the flags that a text gives, and what is wrong with it."""
    try:
        data = tomllib.loads(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        if not re.search(r"(^|\s)--\w", text):
            hint = "paste a TOML with settings, or a command that begins with coinage train"
            return {}, [Problem(f"this is neither a TOML nor a command: {error}", WHERE, hint)]
        return _of_command(text, flags)
    given = flat(data, flags)
    values, problems = values_of_file(given, flags, WHERE)
    for name in given:
        if name not in flags and to_be_seen(name, flags):
            what = f"`{name}` is not a flag"
            problems.append(Problem(what, WHERE, meant(name, list(flags), "")))
    return values, problems


def _of_command(text: str, flags: Mapping[str, Flag]) -> tuple[dict[str, Any], list[Problem]]:
    try:
        words = shlex.split(NEXT_LINE.sub(" ", text))
    except ValueError:
        return {}, [Problem("a quotation mark is not closed", WHERE, "copy the whole command")]
    given: dict[str, Any] = {}
    problems = []
    name = ""
    for word in _arguments(words):
        if not re.match(r"--[A-Za-z]", word):
            if name:
                given[name] = [*given[name], word]
            continue
        flag, equals, value = word[2:].partition("=")
        name = flag if flag in flags else ""
        if not name:
            hint = meant(flag, list(flags), "")
            problems.append(Problem(f"unknown flag --{flag}", WHERE, hint))
            continue
        given[name] = [value] if equals else []
    plain, wrong = _plain(given, flags)
    values, more = values_of_command(plain, flags)
    return values, [*problems, *wrong, *more]


def _arguments(words: Sequence[str]) -> Sequence[str]:
    """Return a command's words behind the program that trains, which a launcher may stand before."""
    for place, word in enumerate(words):
        if re.search(r"(train_textual_inversion(\.py)?|^train)$", word):
            return words[place + 1 :]
    return words


def _plain(
    given: Mapping[str, list[str]], flags: Mapping[str, Flag]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return values as the parser of the command line gives them."""
    plain: dict[str, Any] = {}
    problems = []
    for name, words in given.items():
        kind = flags[name].kind
        if kind == "switch" and not words:
            plain[name] = True
        elif kind == "list":
            plain[name] = words
        elif len(words) == 1:
            plain[name] = words[0]
        else:
            what = f"--{name} needs one value, and has {len(words)}"
            problems.append(Problem(what, WHERE))
    return plain, problems


def _form(
    values: Mapping[str, Any], workspace: Workspace, models: Models
) -> tuple[Form, list[str]]:
    notes = []
    source = values.get("pretrained_model_name_or_path")
    model = models.by_source(str(source)) if source else None
    if source and model is None:
        notes.append("the model is in none of the folders that may be used; choose one")
    form = Form(
        token=str(values["token_string"]),
        model=model.id if model else "",
        kind="style" if values.get("use_style_template") else "object",
        vectors=int(values.get("num_vectors_per_token") or 1),
    )
    form = _with_prompts(form, values, workspace, notes)
    panel = panel_flags()
    chosen = {}
    left = []
    for name, value in values.items():
        flag = panel.get(f"--{name}")
        if flag is not None:
            chosen[flag.name] = _text(flag, value)
            if flag.kind == "switch" and isinstance(value, str):
                left.append(f"{flag.name} {value}")
        elif name not in OWN and value not in (None, False):
            left.append(f"--{name}")
    if left:
        notes.append(f"left out, since it is not set in the page: {', '.join(left)}")
    return _with_own_flags(replace(form, flags={k: v for k, v in chosen.items() if v})), notes


def _text(flag: Flag, value: Any) -> str:
    """Return a value as the form has it; "" for the default."""
    if value is None or value == flag.default:
        return ""
    if flag.kind == "switch":
        return "true" if value else "false"
    return shlex.join(value) if flag.kind == "list" else str(value)


def _with_own_flags(form: Form) -> Form:
    """Turn flags that stand for a choice into that choice."""
    flags = dict(form.flags)
    for length, steps in STEPS.items():
        if steps and flags.get("--max_train_steps") == str(steps):
            del flags["--max_train_steps"]
            form = replace(form, length=length)
    if form.kind == "object" and flags.get("--init_word") == PERSON:
        del flags["--init_word"]
        form = replace(form, kind="person")
    if form.prompts:
        flags.pop("--sample_at_first", None)
        if flags.get("--sample_every_n_steps") == str(PREVIEW_EVERY[form.length]):
            del flags["--sample_every_n_steps"]
    return replace(form, flags=flags)


def _with_prompts(
    form: Form, values: Mapping[str, Any], workspace: Workspace, notes: list[str]
) -> Form:
    """Take over the prompts of a word of this workspace."""
    given = values.get("sample_prompts")
    if not given:
        return form
    word_id = _word_of(given, workspace, PROMPTS)
    if not word_id:
        notes.append("the file of prompts is not of this workspace; write the prompts again")
        return form
    try:
        made = read_form(workspace.word(word_id))
    except CoinageError:
        notes.append("the prompts cannot be read; write them again")
        return form
    return replace(form, prompts=made.prompts, negative=made.negative)


def _word_of(path: Any, workspace: Workspace, name: str) -> str:
    """Return the id of the word that a path is a part of: `words/ID/NAME`; "" if it is none."""
    if not path:
        return ""
    return next(
        (
            word_id
            for word_id in workspace.word_ids()
            if Path(str(path)) == workspace.words / word_id / name
        ),
        "",
    )
