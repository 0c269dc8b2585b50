"""The flags that may stand in a `[[words]]` table of a config file. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from coinage.errors import Problem
from coinage.settings.flags import BY_DEST, Flag
from coinage.settings.foreign import meant, to_be_seen

TABLE = "words"
# Groups of flags of which each word may have its own values; of other groups some flags, by their rows
GROUPS_PER_WORD = (
    "the new word",
    "words of one picture",
    "captions",
    "optimizer",
    "learning rate schedule",
    "noise and loss",
    "previews",
    "metadata",
)
OF_THE_MODEL = ("zero_terminal_snr",)
# Flags of a word's table that take the place of other flags in the rest of the file
INSTEAD = {
    "dataset_config": ("train_data_dir", "reg_data_dir", "in_json"),
    "train_data_dir": ("dataset_config",),
    "in_json": ("dataset_config",),
    "init_word": ("weights",),
    "use_object_template": ("use_style_template", "caption_templates"),
    "use_style_template": ("use_object_template", "caption_templates"),
    "caption_templates": ("use_object_template", "use_style_template"),
}
# Flags that each word must set for itself, so that a command with several words does not have them
ONLY_IN_TABLES = ("token_string", "output_name")
DATA = ("dataset_config", "train_data_dir", "reg_data_dir", "in_json")
# Of a word that does not learn
OF_COMPANIONS = ("token_string", "weights", "train")


def allowed(known: Collection[str]) -> list[str]:
    """Return the flags that a word may have for itself, of those that a script knows."""
    return [name for name in known if _is_per_word(BY_DEST[name])]


def _is_per_word(flag: Flag) -> bool:
    return flag.dest not in OF_THE_MODEL and (flag.per_word or flag.group in GROUPS_PER_WORD)


def label_of(number: int, values: Mapping[str, Any]) -> str:
    """Return what a table is called in messages: `[[words]] 2 (mydog)`."""
    label, token = f"[[{TABLE}]] {number}", values.get("token_string")
    return f"{label} ({token})" if isinstance(token, str) and token else label


def key_problems(values: Mapping[str, Any], known: Sequence[str], where: str) -> list[Problem]:
    """Find keys of a word's table that are misspelt flags, or flags that all words share.

    Only Coinage reads such tables, so that a slip of the pen is an error here. Keys that resemble
    no flag are only noted, elsewhere.
    """
    per_word = allowed(known)
    problems = []
    for name in values:
        if name not in known:
            hint = meant(name, per_word, "") if to_be_seen(name, known) else ""
            if hint:
                problems.append(Problem(f"unknown key `{name}`", where, hint))
        elif name == "max_train_epochs":
            hint = (
                "words take the same steps, but their epochs differ: "
                "give max_train_steps, above all tables of words"
            )
            problems.append(Problem(f"`{name}` cannot be set for one word", where, hint))
        elif name not in per_word:
            what = f"`{name}` is shared by all words"
            problems.append(Problem(what, where, f"give it above all [[{TABLE}]]"))
        elif stays(values) and name not in OF_COMPANIONS:
            what = f"`{name}` has no effect on a word that stays as it is"
            hint = f"leave it out: with train = false a word has {' and '.join(OF_COMPANIONS[:2])}"
            problems.append(Problem(what, where, hint))
    return problems


def stays(values: Mapping[str, Any]) -> bool:
    """Return whether values of a file or of flags say that a word does not learn."""
    return str(values.get("train")).strip().lower() == "false"


def merged(shared: Mapping[str, Any], of_word: Mapping[str, Any]) -> dict[str, Any]:
    """Return a word's values: those of its table, else those of the rest of the file."""
    values = dict(shared)
    for name, value in of_word.items():
        if value:
            for other in INSTEAD.get(name, ()):
                values.pop(other, None)
    return values | dict(of_word)


def command_problems(given: Collection[str]) -> list[Problem]:
    """Find flags of the command line that would make all words one.

    Args:
        given: the names of all that are on it.
    """
    wrong = [f"--{name}" for name in (*ONLY_IN_TABLES, *DATA) if name in given]
    if not wrong:
        return []
    what = f"{', '.join(wrong)}: the config file has several words, each with its own"
    hint = f"give them in the tables of the words, and what words share above all [[{TABLE}]]"
    return [Problem(what, hint=hint)]
