"""Captions vary as their rules say, and never lose the word."""

from hypothesis import given
from hypothesis import strategies as st

from coinage.config import CaptionRules
from coinage.data.captions import TEMPLATES, vary
from coinage.seeding import rng_for

TAG = st.text("abcdefgh ", min_size=1, max_size=8).map(str.strip).filter(bool)


def test_no_rules_change_nothing() -> None:
    assert vary("a, b ,c,", CaptionRules(), "zibu", rng_for(0)) == "a, b ,c,"


def test_prefix_and_suffix_are_set_off_by_spaces() -> None:
    assert vary("cat", CaptionRules(prefix="pre,", suffix="suf"), "zibu", rng_for(0)) == "pre, cat suf"


def test_templates_replace_the_caption_and_cover_all_sentences() -> None:
    assert (len(TEMPLATES["object"]), len(TEMPLATES["style"]), len(set(TEMPLATES["style"]))) == (27, 19, 17)
    rules = CaptionRules(template="object", prefix="x")
    drawn = {vary("ignored", rules, "zibu", rng_for(i)) for i in range(400)}
    assert drawn == {t.format("zibu") for t in TEMPLATES["object"]}
    assert vary("x", CaptionRules(template="style"), "zibu", rng_for(1)).endswith("in the style of zibu")


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
