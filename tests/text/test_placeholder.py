"""The new word in text: ids, expansion, and rows of 77 ids."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from coinage.demo.run import MODEL
from coinage.text.clip_tokenizer import read_tokenizer
from coinage.text.placeholder import (
    Placeholder,
    WordEncoder,
    clip_rows,
    placeholders_for,
)

TOKENIZER: Any = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
FIRST = len(TOKENIZER)
WORD = Placeholder("zibu", 3, FIRST)
ROWS = clip_rows(TOKENIZER)
ENCODER = WordEncoder(TOKENIZER, [WORD], ROWS)
RUN = [FIRST, FIRST + 1, FIRST + 2]


def plain(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def test_new_ids_follow_the_vocabulary() -> None:
    first, second = placeholders_for([("zibu", 3), ("wobo", 2)], FIRST)
    assert first == WORD
    assert (second.first_id, second.ids) == (FIRST + 3, (FIRST + 3, FIRST + 4))
    assert WORD.pieces == ("zibu", "zibu1", "zibu2")


def test_capitals_are_small_letters_to_every_tokenizer() -> None:
    """So that drawing capitals at random would change nothing, and the keys for it say so."""
    text = "a Photo of a cat, ONE Moon"
    for tokenizer in (TOKENIZER, read_tokenizer(MODEL / "tokenizer")):
        encode = tokenizer.encode
        for other in (text.upper(), text.lower(), text.title(), text.swapcase()):
            assert encode(other, add_special_tokens=False) == encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of zibu", [*plain("a photo of"), *RUN]),
        ("zibu, zibu", [*RUN, *plain(","), *RUN]),
        ("a photo of zibu zibu1 zibu2", [*plain("a photo of"), *RUN]),
        ("zibu1", [FIRST + 1]),
        ("Zibu", plain("Zibu")),
        ("zibus", plain("zibus")),
        ("xzibu", plain("xzibu")),
        ("zibu10", plain("zibu10")),
        ("(zibu)", [*plain("("), *RUN, *plain(")")]),
        ("", []),
    ],
)
def test_words_are_expanded_where_they_stand_alone(text: str, ids: list[int]) -> None:
    assert ENCODER.ids(text) == ids


def test_a_token_that_is_part_of_another() -> None:
    encoder = WordEncoder(TOKENIZER, placeholders_for([("abc", 2), ("abcd", 1)], FIRST), ROWS)
    assert encoder.ids("abcd abc") == [FIRST + 2, FIRST, FIRST + 1]


def test_tokens_with_marks() -> None:
    encoder = WordEncoder(TOKENIZER, placeholders_for([("<cat-toy>", 1)], FIRST), ROWS)
    assert encoder.ids("a <cat-toy>.") == [*plain("a"), FIRST, *plain(".")]


@given(st.lists(st.sampled_from(["red", "circle", "on", ",", "qux"]), max_size=6))
def test_text_without_the_word_is_encoded_as_the_tokenizer_does(words: list[str]) -> None:
    text = " ".join(words)
    assert (
        ENCODER.rows(text)[0] == TOKENIZER(text, padding="max_length", truncation=True)["input_ids"]
    )


def test_long_captions_are_cut_before_the_end_of_text() -> None:
    (row,) = ENCODER.rows("red " * 100)
    assert row == [TOKENIZER.bos_token_id, *plain("red") * 75, TOKENIZER.eos_token_id]


B, E = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id


class Padded:
    """A tokenizer whose padding is not its end of text, as SD 2.x has it."""

    bos_token_id, eos_token_id, pad_token_id = B, E, 0

    def __len__(self) -> int:
        return FIRST

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return plain(text)

    def get_vocab(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (5, [5, 0, 0]),
        (74, [74, 0, 0]),
        (75, [75, 0, 0]),
        (76, [75, 1, 0]),
        (225, [75, 75, 75]),
        (300, [75, 75, 75]),
    ],
)
@pytest.mark.parametrize("pad", [0, E])
def test_long_captions_take_several_rows(count: int, parts: list[int], pad: int) -> None:
    tokenizer = Padded()
    tokenizer.pad_token_id = pad
    rows = WordEncoder(tokenizer, [], clip_rows(tokenizer)).rows("red " * count, chunks=3)
    assert rows == [[B, *plain("red") * n, E, *[pad] * (75 - n)] for n in parts]
    assert all(len(row) == 77 for row in rows)


@pytest.mark.parametrize("before", [72, 73, 74, 75])
def test_a_words_vectors_are_never_separated(before: int) -> None:
    first, second, _ = ENCODER.rows("red " * before + "zibu circle", chunks=3)
    place = (first, before + 1) if before == 72 else (second, 1)
    assert place[0][place[1] : place[1] + 3] == RUN
    assert first[before + 1 if before > 72 else 76] == E


def test_a_word_that_does_not_fit_is_left_out_whole() -> None:
    (row,) = ENCODER.rows("red " * 74 + "zibu")
    assert not set(RUN) & set(row)


@given(st.lists(st.sampled_from(["red", "zibu", ",", "circle"]), max_size=200))
def test_parts_lose_and_reorder_nothing(words: list[str]) -> None:
    ids = ENCODER.ids(" ".join(words))
    parts = ENCODER.parts(ids)
    assert [i for part in parts for i in part] == ids
    assert all(len(part) <= 75 for part in parts)


# The same ids without transformers

LIGHT = read_tokenizer(MODEL / "tokenizer")
TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from([*TOKENIZER.get_vocab()]), max_size=8).map(
        lambda words: "".join(words).replace("</w>", " ")
    ),
)


@given(TEXT)
def test_the_light_tokenizer_agrees_with_transformers(text: str) -> None:
    assert LIGHT is not None
    assert LIGHT.encode(text) == plain(text)


def test_the_light_tokenizer_has_the_same_vocabulary() -> None:
    assert LIGHT is not None
    assert (len(LIGHT), LIGHT.get_vocab()) == (len(TOKENIZER), TOKENIZER.get_vocab())
    assert (LIGHT.bos_token_id, LIGHT.eos_token_id, LIGHT.pad_token_id) == (
        B,
        E,
        TOKENIZER.pad_token_id,
    )


def test_a_saved_tokenizer_is_read_in_any_layout(tmp_path: Any) -> None:
    tokenizer: Any = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    tokenizer.add_tokens(["wobo", "wobo1"])
    tokenizer.save_pretrained(tmp_path)
    light = read_tokenizer(tmp_path)
    assert light is not None
    assert len(light) == len(tokenizer) == FIRST + 2
    assert light.encode("a wobo1 red wobo") == tokenizer.encode(
        "a wobo1 red wobo", add_special_tokens=False
    )
    assert read_tokenizer(tmp_path / "none") is None
