"""The prompts that words are scored with."""

from pathlib import Path

import pytest

from coinage.errors import CoinageError, ConfigError
from coinage.scoring.prompts import PROMPT_SETS, TOKEN, asked_of, plain, templates_of


def test_dreambooth_has_twenty_five_prompts_of_each_kind() -> None:
    objects, live = PROMPT_SETS["object"], PROMPT_SETS["live"]
    assert len(set(objects)) == len(set(live)) == 25
    assert len({*objects} & {*live}) == 15, "ten places and five properties are those of both"
    assert {"a {} in the jungle", "a cube shaped {}", "a {} floating in an ocean of milk"} <= {
        *objects
    }
    assert {"a {} wearing a black top hat and a monocle", "a wet {}"} <= {*live}


def test_each_prompt_gets_the_same_seeds() -> None:
    asked = asked_of(["a red {}", "a {} at sea"], "dog", 2, 5)
    assert [(one.plain, one.seed) for one in asked] == [
        ("a red dog", 5), ("a red dog", 6), ("a dog at sea", 5), ("a dog at sea", 6),
    ]  # fmt: skip
    assert asked[0].text == f"a red {TOKEN}"


@pytest.mark.parametrize(
    ("template", "noun", "text"),
    [
        ("a {} on the beach", "stuffed animal", "a stuffed animal on the beach"),
        ("a photo of a {} on the beach", "", "a photo on the beach"),
        ("a house in the style of {}", "", "a house"),
        ("a shiny {}", "", "a shiny"),
    ],
)
def test_plain_prompts(template: str, noun: str, text: str) -> None:
    assert plain(template, noun) == text


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# mine\na {} at sea\n\n a red {}\na {} at sea\n", encoding="utf-8")
    assert templates_of(str(path)) == ("a {} at sea", "a red {}")
    path.write_text("a dog\na {}\na cat\n", encoding="utf-8")
    with pytest.raises(ConfigError) as failed:
        templates_of(str(path))
    assert [problem.what for problem in failed.value.problems] == [
        "prompts: 'a dog' lacks {}", "prompts: 'a cat' lacks {}",
    ]  # fmt: skip
    path.write_text("# nothing\n", encoding="utf-8")
    for name, told in ((str(path), "there are none"), ("objcet", "no such set")):
        with pytest.raises(ConfigError, match=told):
            templates_of(name)
    path.write_bytes(b"a {} \xff")
    with pytest.raises(CoinageError, match=r"^prompts: the file is not text"):
        templates_of(str(path))
