"""Names that cause trouble somewhere are reported before training; suggested names are good."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinage.demo.run import MODEL
from coinage.embeddings.naming import naming_problems, suggest
from coinage.errors import Problem
from coinage.text.clip_tokenizer import ClipTokenizer, read_tokenizer
from coinage.text.placeholder import CHUNK, pieces_of, taken

FOUND = read_tokenizer(MODEL / "tokenizer")
assert FOUND is not None
TOKENIZER: ClipTokenizer = FOUND
BOTH = "--token_string, --output_name"


def told(name: str, n: int = 3) -> list[Problem]:
    return naming_problems(name, name, n, TOKENIZER)


@pytest.mark.parametrize(
    "name",
    [
        "mychar",
        "zibu",
        "my-char",
        "sks_style",
        "r2d2x",
        "zibu2024",
        "zibu-000010",
        "zibu-step00000500",
        "0zibu",
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_good_names(name: str, n: int) -> None:
    assert not told(name, n)
    assert not naming_problems(name, name, n, None)


# A bad name, what is said of it, and a name near to it that is good.
RULES = [
    (
        "MyTok",
        "MyTok` contains capitals: diffusers would use only the first of its 3 vectors",
        "mytok",
    ),
    ("circle", "`circle` already exists in the model: AUTOMATIC1111", "circlezz"),
    ("12345", "has only digits, which ComfyUI reads as a weight", "a12345"),
    ("-_-", "has no letters: AUTOMATIC1111", "zibu-_-"),
    ("mychar1", "is also the internal name of vector 2 of a word `mychar`$", "mychar01"),
    (
        "mychar_2",
        "internal name of vector 3 of a word `mychar` in diffusers and SD.Next",
        "mychar_02",
    ),
    ("mychar74", "vector 75", "mychar75"),
    (
        "my(char)",
        "contains parentheses: AUTOMATIC1111, Forge, SD.Next and ComfyUI read them as weights",
        "mychar",
    ),
    ("my[char", "contains brackets: .*in ComfyUI the word ends", "mychar"),
    ("my:char", "contains a colon: .*weight", "my-char"),
    ("my|char", "contains a bar: .*alternatives", "my-char"),
    ("<mychar>", "contains < or >: in ComfyUI the word ends there", "mychar"),
    ("my,char", "contains a comma: ComfyUI", "my-char"),
    ("my char", "contains a space: in ComfyUI and SwarmUI", "my_char"),
    ("my.char", "contains a dot: SD.Next", "my-char"),
    ("mychär", "contains ä: InvokeAI", "mychar"),
    ("my+char", r"contains \+: InvokeAI", "my-char"),
    ("_mychar", "starts with _", "mychar"),
    ("nul", "`nul` is the name of a device on Windows, where no file can have it", "nulx"),
    ("lpt0", "is the name of a device on Windows", "lptx"),
]


@pytest.mark.parametrize(("bad", "what", "good"), RULES)
def test_each_rule(bad: str, what: str, good: str) -> None:
    (problem,) = told(bad)
    assert re.search(what, problem.what), problem.what
    assert problem.where == BOTH
    assert "\n" not in problem.what
    assert not told(good)


@pytest.mark.parametrize("word", ["BREAK", "AND", "my-AND"])
def test_keywords_of_prompts(word: str) -> None:
    problems = [problem.what for problem in told(word, 1)]
    assert sum("which splits prompts in AUTOMATIC1111" in what for what in problems) == 1
    assert not told("zibubreak")
    assert not any("splits" in problem.what for problem in told("BREAKERS", 1))


def test_one_problem_for_each_cause() -> None:
    found = [problem.what.split(": ")[0] for problem in told("My(Char):", 3)]
    assert found == [
        f"`My(Char):` contains {sign}" for sign in ("capitals", "parentheses", "a colon")
    ]


def test_a_cause_in_word_and_file_is_told_once() -> None:
    (same,) = naming_problems("MyChar", "MyChar-v", 3, TOKENIZER)
    assert same.what.startswith("`MyChar` and `MyChar-v`: each contains capitals")
    assert same.where == BOTH
    two = naming_problems("mychar1", "mychar_2", 3, TOKENIZER)
    assert [problem.where for problem in two] == ["--token_string", "--output_name"]


def test_word_and_file_have_rules_of_their_own() -> None:
    # A dot cuts only the name of a file
    assert not naming_problems("my.char", "mychar", 3, TOKENIZER)
    assert [problem.where for problem in naming_problems("mychar", "my.char", 3, TOKENIZER)] == [
        "--output_name"
    ]
    assert not naming_problems("mychär", "mychar", 3, TOKENIZER)  # nor do other letters harm a word
    assert [problem.where for problem in naming_problems("<zibu>", "zibu", 3, TOKENIZER)] == [
        "--token_string"
    ]
    assert [problem.where for problem in naming_problems("zibu", "circle", 3, TOKENIZER)] == [
        "--output_name"
    ]


def test_capitals_of_one_vector() -> None:
    assert not naming_problems("MyTok", "mytok", 1, TOKENIZER)
    (problem,) = naming_problems("mytok", "MyTok", 1, TOKENIZER)
    assert "SwarmUI" in problem.what


def test_without_a_tokenizer_ordinary_words_pass() -> None:
    assert told("circle")
    assert not naming_problems("circle", "circle", 3, None)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("MyTok", "mytok"), ("<My Char>", "my-char"), ("circle", "circlex"), ("mychar1", "mychar1x"),
        ("12345", "mychar12345"),
        ("7", "mychar7x"), ("é", "ex"), ("()", "mychar"), ("", "mychar"), ("my.char", "my-char"),
    ],
)  # fmt: skip
def test_suggestions(word: str, near: str) -> None:
    assert suggest(word, TOKENIZER) == near
    if word:
        assert told(word)[0].hint == f"for example `{near}`"


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=12)
    | st.text("aAbB1_-.<( ", max_size=6)
    | st.sampled_from(sorted(TOKENIZER.get_vocab()))
)
def test_what_is_suggested_is_good_and_new(word: str) -> None:
    near = suggest(word, TOKENIZER)
    assert not naming_problems(near, near, CHUNK, TOKENIZER)
    assert not taken(pieces_of(near, CHUNK), TOKENIZER.get_vocab())
    assert len(TOKENIZER.encode(near)) > 1
    naming_problems(word, word, 3, TOKENIZER)


def test_half_characters_do_no_harm() -> None:
    assert naming_problems("a\ud800", "a\ud800", 3, TOKENIZER)
