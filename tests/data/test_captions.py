"""Captions vary as their rules say, and never lose the word."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinage.data.captions import TEMPLATES, extreme_captions, fill_wildcards, vary
from coinage.data_config import CaptionRules
from coinage.seeding import rng_for
from coinage.text.placeholder import word_pattern

TAG = st.text("abcdefgh ", min_size=1, max_size=8).map(str.strip).filter(bool)


def test_no_rules_change_nothing() -> None:
    assert vary("a, b ,c,", CaptionRules(), "zibu", rng_for(0)) == "a, b ,c,"


def test_prefix_and_suffix_are_set_off_by_spaces() -> None:
    assert (
        vary("cat", CaptionRules(prefix="pre,", suffix="suf"), "zibu", rng_for(0)) == "pre, cat suf"
    )


def test_templates_replace_the_caption_and_cover_all_sentences() -> None:
    assert (len(TEMPLATES["object"]), len(TEMPLATES["style"]), len(set(TEMPLATES["style"]))) == (
        27,
        19,
        17,
    )
    rules = CaptionRules(template="object", prefix="x")
    drawn = {vary("ignored", rules, "zibu", rng_for(i)) for i in range(400)}
    assert drawn == {t.format("zibu") for t in TEMPLATES["object"]}
    assert vary("x", CaptionRules(template="style"), "zibu", rng_for(1)).endswith(
        "in the style of zibu"
    )


def test_own_sentences_hold_the_word_and_the_varied_caption() -> None:
    rules = CaptionRules(template=("a {}", "{}: [filewords]"), shuffle=True, keep_tokens=1)
    drawn = {vary("x{}, y, z", rules, "zibu", rng_for(i)) for i in range(100)}
    assert drawn == {"a zibu", "zibu: x{}, y, z", "zibu: x{}, z, y"}
    assert {vary("", rules, "zibu", rng_for(i)) for i in range(50)} == {"a zibu"}
    only = CaptionRules(template=("{}[filewords]!",))
    assert vary("", only, "zibu", rng_for(0)) == "zibu!"
    assert extreme_captions("a long caption", rules, "zibu") == ["zibu: a long caption"]
    assert rules.use_captions
    assert not CaptionRules(template=("a {}",)).use_captions


@given(st.lists(TAG, min_size=1, max_size=8), st.integers(0, 9), st.integers(0, 2**31))
def test_shuffling_keeps_the_head_and_loses_nothing(tags: list[str], keep: int, seed: int) -> None:
    rules = CaptionRules(shuffle=True, keep_tokens=keep)
    shuffled = vary(",".join(tags), rules, "zibu", rng_for(seed)).split(", ")
    assert shuffled[:keep] == tags[:keep]
    assert sorted(shuffled) == sorted(tags)


def test_shuffling_depends_on_the_generator_alone() -> None:
    rules = CaptionRules(shuffle=True, separator=";")
    drawn = [vary("a;b;c;d;e", rules, "zibu", rng_for(i)) for i in range(20)]
    assert drawn == [vary("a;b;c;d;e", rules, "zibu", rng_for(i)) for i in range(20)]
    assert len(set(drawn)) > 10
    assert all("; " in text for text in drawn)


def drawn(text: str, rules: CaptionRules, draws: int = 200, step: int = 0) -> set[str]:
    return {vary(text, rules, "zibu", rng_for(i), step) for i in range(draws)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{simple|white} background", {"simple background", "white background"}),
        ("{{retro|x}} {a|}y {} {z}", {"{retro|x} ay {} z", "{retro|x} y {} z"}),
        ("{x|y}}}", {"x", "y}"}),
        ("{a|b}}", {"{a|b}"}),
        ("{a|b{c|d}e}", {"ae}", "b{ce}", "de}"}),
        ("one\ntwo", {"one", "two"}),
    ],
)
def test_wildcards(text: str, expected: set[str]) -> None:
    assert drawn(text, CaptionRules(wildcard=True)) == expected
    assert drawn(text, CaptionRules()) == {text.split("\n", maxsplit=1)[0]}


def test_many_open_braces_take_no_time() -> None:
    text = "{ " * 40_000
    assert fill_wildcards(text, lambda parts: parts[0]) == text
    assert fill_wildcards("a{}b{}{c|d}{", lambda parts: parts[-1]) == "a{}b{}d{"


def test_prefix_and_suffix_are_on_every_line() -> None:
    assert drawn("a\nb", CaptionRules(wildcard=True, prefix="p", suffix="s")) == {"p a s", "p b s"}
    assert drawn("a", CaptionRules(wildcard=True, prefix="{x|y}", suffix="{{s}}")) == {
        "x a {s}",
        "y a {s}",
    }


def test_empties_are_dropped_and_the_separator_stays() -> None:
    assert drawn("a,, b ,c,", CaptionRules(shuffle=True, keep_tokens=99)) == {"a, b, c"}
    assert drawn("a; b; c", CaptionRules(shuffle=True, keep_tokens=3, separator=";")) == {"a; b; c"}
    assert drawn("a, b, c", CaptionRules(shuffle=True, keep_tokens=3, separator=", ")) == {
        "a, b, c"
    }
    assert drawn("a b  c", CaptionRules(shuffle=True, keep_tokens=3, separator=" ")) == {"a b c"}


def test_a_keep_separator_fixes_head_and_tail() -> None:
    rules = CaptionRules(shuffle=True, keep_separator="|||")
    assert drawn("a, b ||| c, d ||| e, f", rules) == {"a, b, c, d, e, f", "a, b, d, c, e, f"}
    assert drawn("a ||| c, d ||| e ||| f", rules) == {"a, c, d, e ||| f", "a, d, c, e ||| f"}
    assert drawn("a, b ||| c, d ||| e, f", CaptionRules(keep_separator="|||")) == {
        "a, b, c, d, e, f"
    }


def test_a_secondary_separator_keeps_tags_together() -> None:
    rules = CaptionRules(shuffle=True, keep_tokens=1, secondary_separator=";;;")
    assert drawn("x, sky;;;cloud;;;day, y", rules) == {"x, y, sky,cloud,day", "x, sky,cloud,day, y"}


def test_tag_warm_up() -> None:
    rules = CaptionRules(warmup=100)
    counts = {
        step: vary("t1, t2, t3, t4, t5", rules, "zibu", rng_for(0), step)
        for step in (0, 50, 99, 100)
    }
    assert counts == {0: "t1", 50: "t1, t2, t3", 99: "t1, t2, t3, t4", 100: "t1, t2, t3, t4, t5"}
    assert (
        vary("t1, t2, t3, t4, t5", CaptionRules(warmup=100, warmup_min=2), "zibu", rng_for(0), 50)
        == "t1, t2, t3"
    )


def test_the_word_is_never_dropped() -> None:
    rules = CaptionRules(tag_dropout=0.9, warmup=10, shuffle=True)
    texts = drawn("red, green, a zibu, blue", rules, step=5)
    assert all("a zibu" in text for text in texts)
    assert "a zibu" in texts
    assert drawn("a, zibu, b", CaptionRules(tag_dropout=1.0)) == {"zibu"}


@given(
    st.lists(TAG, max_size=6),
    st.integers(0, 6),
    st.floats(0, 1),
    st.floats(0, 50),
    st.integers(0, 60),
    st.integers(0, 2**31),
)
def test_the_word_survives_all_that_leaves_tags_out(
    tags: list[str], place: int, dropout: float, warmup: float, step: int, seed: int
) -> None:
    text = ", ".join([*tags[:place], "a zibu", *tags[place:]])
    rules = CaptionRules(shuffle=True, tag_dropout=dropout, warmup=warmup)
    assert "a zibu" in vary(text, rules, "zibu", rng_for(seed), step, 50).split(", ")


@given(st.lists(TAG, min_size=1, max_size=6), st.integers(0, 2**31))
def test_dropout_rate_zero_is_identity(tags: list[str], seed: int) -> None:
    text = ", ".join(tags)
    assert vary(text, CaptionRules(tag_dropout=0.0), "zibu", rng_for(seed)) == text


def test_a_warm_up_may_be_a_fraction_of_the_run() -> None:
    rules = CaptionRules(warmup=0.1, warmup_min=2)
    assert vary("t1, t2, t3, t4, t5", rules, "zibu", rng_for(0), 50, 1000) == "t1, t2, t3"
    assert vary("t1, t2, t3, t4, t5", rules, "zibu", rng_for(0), 100, 1000) == "t1, t2, t3, t4, t5"


def test_as_the_reference_tags_join_with_comma_and_empties_stay() -> None:
    assert drawn("a,, b ,c,", CaptionRules(shuffle=True, keep_tokens=99, as_reference=True)) == {
        "a, , b, c, "
    }
    assert drawn(
        "a; b; c", CaptionRules(shuffle=True, keep_tokens=3, separator=";", as_reference=True)
    ) == {"a, b, c"}


@pytest.mark.parametrize(
    ("caption", "rules", "expected"),
    [
        ("a zibu", CaptionRules(), ["a zibu"]),
        ("first\nzibu", CaptionRules(), ["first"]),
        ("first\nzibu", CaptionRules(wildcard=True), ["first", "zibu"]),
        ("{a zibu|nothing at all|no}", CaptionRules(wildcard=True), ["nothing at all", "a zibu"]),
        ("zibu, red, blue", CaptionRules(shuffle=True), ["red, blue, zibu"]),
        ("zibu, red, blue", CaptionRules(shuffle=True, keep_tokens=1), ["zibu, red, blue"]),
        ("zibu, red", CaptionRules(tag_dropout=0.9, warmup=100), ["zibu, red"]),
    ],
)
def test_extremes_decide_whether_every_use_holds_the_word(
    caption: str, rules: CaptionRules, expected: list[str]
) -> None:
    assert extreme_captions(caption, rules, "zibu") == expected


CHOICE = st.lists(
    st.sampled_from(["zibu", "red zibu", "blue", "", "zibus"]), min_size=1, max_size=3
).map(lambda parts: "{" + "|".join(parts) + "}")


@given(
    st.lists(st.one_of(TAG, CHOICE, st.just("zibu")), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
)
def test_extremes_agree_with_many_draws(tags: list[str], shuffle: bool, dropout: float) -> None:
    rules = CaptionRules(wildcard=True, shuffle=shuffle, tag_dropout=dropout)
    held = [
        bool(word_pattern(["zibu"]).search(text))
        for text in extreme_captions(", ".join(tags), rules, "zibu")
    ]
    seen = {
        bool(word_pattern(["zibu"]).search(text))
        for text in drawn(", ".join(tags), rules, draws=60)
    }
    assert all(held) <= (seen == {True})
    assert any(held) >= (True in seen)


def dropped(text: str, **rules: Any) -> set[str]:
    return drawn(text, CaptionRules(tag_dropout=0.5, **rules))


def test_all_tags_go_at_once_or_none() -> None:
    text = "zibu, a, b, c"
    assert dropped(text, tag_dropout_mode="full", keep_tokens=1) == {"zibu", text}
    assert len(dropped(text, keep_tokens=1)) == 8


def test_the_last_tags_go_more_often() -> None:
    rules = CaptionRules(tag_dropout=1.0, tag_dropout_mode="random_weighted")
    captions = [vary("a, b, c, d", rules, "zibu", rng_for(i)) for i in range(400)]
    shares = [sum(tag in caption for caption in captions) / 400 for tag in "abcd"]
    for share, expected in zip(shares, (0.75, 0.5, 0.25, 0), strict=True):
        assert abs(share - expected) < 0.08


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"special_tags": ("b", "d")}, {"zibu, b, (d)"}),
        ({"special_tags": ("b", "d"), "special_tags_mode": "blacklist"}, {"zibu, a, cc"}),
        ({"special_tags": (r"[ab]", r"c+"), "special_tags_regex": True}, {"zibu, a, b, cc"}),
        ({"special_tags": (r"c",), "special_tags_regex": True}, {"zibu"}),
        ({"special_tags": ("zibu",), "special_tags_mode": "blacklist"}, {"zibu, a, b, cc, (d)"}),
    ],
)
def test_special_tags_stay_or_are_the_only_ones_to_go(
    rules: dict[str, Any], expected: set[str]
) -> None:
    everything = CaptionRules(tag_dropout=1.0, **rules)
    assert drawn("zibu, a, b, cc, (d)", everything) == expected


@given(
    st.lists(TAG, min_size=1, max_size=8), st.sampled_from(["random", "full", "random_weighted"])
)
def test_no_way_to_drop_tags_loses_the_word(tags: list[str], mode: Any) -> None:
    rules = CaptionRules(tag_dropout=1.0, tag_dropout_mode=mode, shuffle=True)
    assert word_pattern(["zibu"]).search(vary(",".join([*tags, "zibu"]), rules, "zibu", rng_for(0)))
