"""How previews are laid out and named, and what a page says to do next."""

from typing import Any

import pytest

from coinage.report.page import folder_of, next_steps, render_report
from coinage.report.previews import columns_for, label_of
from coinage.report.record import PreviewPrompt, Record, Shot, Standing
from tests.report.test_page import Seen

BEST, LAST = (
    Standing(step=680, loss=0.163, file="zibu-best.safetensors"),
    Standing(step=960, loss=0.17, file="zibu.safetensors"),
)
USAGE = [
    "AUTOMATIC1111: put it into embeddings/; write zibu-best",
    'diffusers: pipe.load_textual_inversion("x")',
    "  pipe(prompt)",
]


@pytest.mark.parametrize(
    ("sizes", "columns"),
    [
        ([1], 3),
        ([1, 1, 1], 3),
        ([1, 2, 2], 5),
        ([2, 2, 2], 6),
        ([2, 2], 4),
        ([1] * 4, 4),
        ([1] * 8, 4),
        ([1] * 9, 3),
        ([2] * 4, 4),
        ([2] * 6, 6),
        ([2, 1, 2, 1, 2], 4),
        ([7], 6),
    ],
)
def test_previews_leave_no_holes(sizes: list[int], columns: int) -> None:
    assert columns_for(sizes) == columns


@pytest.mark.parametrize(
    ("status", "step", "standings", "label"),
    [
        ("finished", 680, [BEST, LAST], "best, step 680 of 1,600"),
        ("finished", 960, [BEST, LAST], "end, step 960 of 1,600"),
        ("finished", 960, [LAST, BEST], "best and end, step 960 of 1,600"),
        ("finished", 0, [BEST, LAST], "step 0 of 1,600"),
        ("finished", 960, [], "end, step 960 of 1,600"),
        ("training", 680, [BEST, LAST], "step 680 of 1,600"),
        ("stopped", 960, [], "step 960 of 1,600"),
    ],
)
def test_the_best_and_the_end_are_named(
    status: str, step: int, standings: list[Standing], label: str
) -> None:
    record = Record(status=status, step=960, total_steps=1600, standings=standings)  # type: ignore[arg-type]
    assert label_of(record, step) == label
    record.prompts, record.shots = [PreviewPrompt(text="zibu")], [Shot(step=step, pictures=[None])]
    assert label in Seen(render_report(record)).text


def run(**more: Any) -> Record:
    """A finished run whose best step is not its last one."""
    known: dict[str, Any] = {
        "status": "finished",
        "step": 960,
        "standings": [BEST, LAST],
        "usage": USAGE,
    }
    return Record(**(known | {"file": "out/zibu-best.safetensors"} | more))


def test_the_page_says_what_to_do_next() -> None:
    found = next_steps(run())
    assert found is not None
    assert (found.file, found.tools) == (
        "zibu-best.safetensors",
        [("AUTOMATIC1111", "put it into embeddings/; write zibu-best")],
    )
    first = "Its loss is the lowest, at step 680 (0.1630): try it first."
    assert found.why == f"{first} The word of the last step, 960, is in zibu.safetensors."
    assert found.calls == 'pipe.load_textual_inversion("x")\n  pipe(prompt)'
    text = Seen(render_report(run())).text
    assert (
        text.index("What to do next")
        < text.index("zibu-best.safetensors")
        < text.index("put it into embeddings/; write zibu-best")
    )
    assert text.count("put it into embeddings/") == 1, "and says it once"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"standings": [LAST], "file": r"C:\out\zibu.safetensors"},
            "Its loss is the lowest, at the last step, 960 (0.1700).",
        ),
        ({"standings": [], "file": "zibu.pt"}, ""),
        ({"standings": [BEST, LAST], "file": "zibu.safetensors"}, ""),
        ({"standings": [Standing(step=9, loss=None)]}, ""),
        ({"status": "training"}, None),
        ({"status": "failed"}, None),
        ({"file": ""}, None),
    ],
)
def test_why_a_file_is_the_one_to_use(more: dict[str, object], why: str | None) -> None:
    found = next_steps(run(**more))
    assert (found and found.why) == why
    assert ("What to do next" in Seen(render_report(run(**more))).text) == (why is not None)


@pytest.mark.parametrize(
    ("path", "folder"),
    [("out/a/z.pt", "out/a"), (r"C:\out\z.pt", r"C:\out"), ("z.pt", ""), ("", ""), ("/z.pt", "")],
)
def test_the_folder_of_a_path_of_any_system(path: str, folder: str) -> None:
    assert folder_of(path) == folder
