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
    "captions",
    "optimizer",
    "learning rate schedule",
    "noise and loss",
    "previews",
    "metadata",
)
OF_THE_MODEL = ("zero_terminal_snr",)
# What a word gives in another way than the rest of the file does: the latter is then left out.
INSTEAD = {
    "dataset_config": ("train_data_dir", "reg_data_dir", "in_json"),
    "train_data_dir": ("dataset_config",),
    "in_json": ("dataset_config",),
    "init_word": ("weights",),
    "use_object_template": ("use_style_template",),
    "use_style_template": ("use_object_template",),
}
# What cannot be the same for all words, and so is no flag of a command that trains several.
ONLY_IN_TABLES = ("token_string", "output_name")
DATA = ("dataset_config", "train_data_dir", "reg_data_dir", "in_json")


def allowed(known: Collection[str]) -> list[str]:
    """Return the flags that a word may have for itself, of those that a script knows."""
    return [name for name in known if _is_per_word(BY_DEST[name])]


def _is_per_word(flag: Flag) -> bool:
    return flag.dest not in OF_THE_MODEL and (flag.per_word or flag.group in GROUPS_PER_WORD)


def label_of(number: int, values: Mapping[str, Any]) -> str:
    """`[[words]] 2 (mydog)`."""
    token = values.get("token_string")
    return f"[[{TABLE}]] {number}" + (f" ({token})" if isinstance(token, str) and token else "")


def key_problems(values: Mapping[str, Any], known: Sequence[str], where: str) -> list[Problem]:
    """Return what is wrong with the keys of a word's table: they are almost flags, or all words share them.

    Only Coinage reads such tables, so that a slip of the pen is an error here. Keys that are like no flag
    are left to be noted.
    """
    own = allowed(known)
    problems = []
    for name in values:
        if name not in known:
            if hint := meant(name, own, "") if to_be_seen(name, known) else "":
                problems.append(Problem(f"unknown key `{name}`", where, hint))
        elif name == "max_train_epochs":
            hint = (
                "words take the same steps, but their epochs differ: "
                "give max_train_steps, above all tables of words"
            )
            problems.append(Problem(f"`{name}` cannot be set for one word", where, hint))
        elif name not in own:
            problems.append(
                Problem(f"`{name}` is shared by all words", where, f"give it above all [[{TABLE}]]")
            )
    return problems


def merged(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A word's values: its own, else those of the rest of the file."""
    left_out = {other for name in own if own[name] for other in INSTEAD.get(name, ())}
    return {name: value for name, value in shared.items() if name not in left_out} | dict(own)


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
