"""Whether captions hold the word, in text and at token-id level."""

import time
from pathlib import Path

import pytest

from coinage.data.coverage import Coverage, cover_captions, find_coverage_problems
from coinage.data.sample import Sample
from coinage.data_config import CaptionRules
from coinage.demo.run import MODEL
from coinage.errors import Findings
from coinage.text.clip_tokenizer import read_tokenizer
from coinage.text.placeholder import Placeholder, WordEncoder, clip_rows
from tests.data.pictures import picture, scanned
from tests.data.test_scan import samples_of


def images(*captions: str, **rules: object) -> list[Sample]:
    from dataclasses import replace

    return [
        replace(sample, caption=caption)
        for sample, caption in zip(samples_of(len(captions), **rules), captions, strict=True)
    ]


def covered(samples: list[Sample], vectors: int = 2, chunks: int = 1) -> Coverage:
    tokenizer = read_tokenizer(MODEL / "tokenizer")
    assert tokenizer is not None
    word = Placeholder("zibu", vectors, len(tokenizer))
    return cover_captions(
        samples, "zibu", WordEncoder(tokenizer, [word], clip_rows(tokenizer)), word, chunks
    )


def reported(coverage: Coverage, *, required: bool = False) -> Findings:
    findings = Findings()
    find_coverage_problems(coverage, "zibu", findings, required=required)
    return findings


def kinds(coverage: Coverage) -> tuple[int, int, int, int]:
    return len(coverage.always), len(coverage.sometimes), len(coverage.cut), len(coverage.never)


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("a zibu", (1, 0, 0, 0)),
        ("(zibu), red", (1, 0, 0, 0)),
        ("zibu zibu1", (1, 0, 0, 0)),
        ("zibu1", (0, 0, 0, 1)),
        ("Zibu", (0, 0, 0, 1)),
        ("zibus", (0, 0, 0, 1)),
        ("red " * 73 + "zibu", (1, 0, 0, 0)),
        ("red " * 74 + "zibu", (0, 0, 1, 0)),
        ("", (0, 0, 0, 1)),
    ],
)
def test_every_vector_must_be_read(caption: str, kind: tuple[int, ...]) -> None:
    assert kinds(covered(images(caption))) == kind


def test_more_chunks_read_more() -> None:
    assert kinds(covered(images("red " * 74 + "zibu"), chunks=2)) == (1, 0, 0, 0)


def test_wildcards_and_shuffling_are_judged_by_their_worst() -> None:
    assert kinds(covered(images("{a zibu|red}", wildcard=True))) == (0, 1, 0, 0)
    tags = "zibu, " + ", ".join(["red"] * 50)
    assert kinds(covered(images(tags))) == (1, 0, 0, 0)
    assert kinds(covered(images(tags, shuffle=True))) == (0, 0, 1, 0)
    assert kinds(covered(images(tags, shuffle=True, keep_tokens=1))) == (1, 0, 0, 0)


def test_templates_always_hold_the_word() -> None:
    assert kinds(covered(images("nothing", template="style"))) == (1, 0, 0, 0)


def test_only_images_that_teach_are_asked() -> None:
    from dataclasses import replace

    held_out = [replace(s, held_out=True, repeats=0) for s in images("red")]
    assert covered([*held_out, *images("red", regularisation=True), *images("zibu")]).total == 1


def test_an_error_where_nothing_would_be_learned_else_a_warning() -> None:
    nothing = reported(covered(images("red", "blue")))
    assert "no caption contains the word zibu: nothing would be learned" in nothing.errors[0].what
    some = reported(covered(images("red", "zibu", "Zibu")))
    assert (some.errors, "2 of 3 captions do not contain `zibu`" in some.warnings[0].what) == (
        [],
        True,
    )
    assert "letter case" in some.warnings[0].hint
    assert "9.png" not in some.warnings[0].where
    assert reported(covered(images("red", "zibu")), required=True).errors
    assert reported(covered(images("zibu"))) == Findings()


def test_cut_and_lacking_captions_together_leave_nothing_too() -> None:
    found = reported(covered(images(*["red " * 80 + "zibu"] * 9, "red")))
    assert [p.what.split(" captions")[0] for p in found.errors] == ["9 of 10", "1 of 10"]
    assert not found.warnings
    assert reported(covered(images("red " * 80 + "zibu", "zibu")), required=True).errors


def test_a_long_caption_with_the_word_in_front_is_only_noted() -> None:
    found = reported(covered(images("zibu " + "red " * 90)))
    assert (found.errors, found.warnings) == ([], [])
    assert "1 caption over 75 tokens" in found.notes[0]


def test_without_a_tokenizer_the_text_is_searched() -> None:
    coverage = cover_captions(
        images("a zibu", "red", "{zibu|x}", wildcard=True), "zibu", None, None, 1
    )
    assert (kinds(coverage), coverage.tokens) == ((1, 1, 0, 1), ())


def test_ten_thousand_captions_take_a_moment() -> None:
    many = images(*[f"a photo of {'zibu' if i % 2 else 'red'} number {i}" for i in range(10_000)])
    start = time.process_time()
    reported(covered(many))
    assert time.process_time() - start < 5


def test_captions_on_disk(tmp_path: Path) -> None:
    for name, text in (("a", "a zibu"), ("b", "a Zibu"), ("c", "zibus"), ("d", "(zibu)")):
        picture(tmp_path / f"{name}.png", caption=text)
    samples, _ = scanned(tmp_path)
    assert kinds(covered(samples)) == (2, 0, 0, 2)
    assert samples[0].subset.captions == CaptionRules()
