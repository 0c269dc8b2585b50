"""Counts in messages: one of everything is said as one."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.cli.main import main
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.demo.run import MODEL
from coinage.report.page import render_report
from coinage.report.record import Record, Tool
from coinage.settings.idle_flags import notes, of_many
from coinage.wording import counted, sized
from tests.helpers import captured, flags
from tests.report.test_page import Seen

NOUNS = """images|buckets|uses|batches|steps|epochs|vectors|embeddings|captions|words|tokens|
prompts|files|runs|reports|pictures|masks|latents|settings|processes|measurements|warnings|
tools|states|updates|problems""".replace("\n", "")
WRONG = re.compile(
    rf"(?<![\d.,])1 (?:[a-z-]+ )?(?:{NOUNS})\b"
    r"|(?<![\d.,])1 of [\d,]+ [a-z]+ (?:are|have|do|lack|contain)\b"
    r"|--\w+, --\w+ (?:is|has)\b"
)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1 images", True), ("1 held-out images", True), ("1 of 3 captions lack", True),
        ("--a, --b is not needed", True),
        ("1 image, 2 images", False), ("11 images", False), ("0.1 images", False),
        ("1,001 images", False), ("--a, --b are not", False),
    ],
)  # fmt: skip
def test_what_is_looked_for_is_found(text: str, wrong: bool) -> None:
    assert bool(WRONG.search(text)) == wrong


@pytest.mark.parametrize(
    ("count", "words", "told"),
    [
        (1, ["image"], "1 image"), (0, ["image"], "0 images"), (1600, ["step"], "1,600 steps"),
        (1, ["batch", "batches"], "1 batch"),
        (2, ["batch", "batches"], "2 batches"),
    ],
)  # fmt: skip
def test_a_count(count: int, words: Sequence[str], told: str) -> None:
    assert counted(count, *words) == told


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with one image of each trouble, in two buckets.

    Small, flat, with a caption that is too long, or that lacks the word.
    """
    folder = tmp_path_factory.mktemp("one")
    rng = np.random.default_rng(0)
    captions = {
        "a": "a photo of zibu",
        "b": "a photo of a circle",
        "c": "zibu " + "red circle " * 60,
    }
    for name, caption in captions.items():
        size = (24, 24, 3) if name == "a" else (64, 96, 3)
        pixels = np.full(size, 200) if name == "b" else rng.integers(0, 256, size)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    (folder / "data.toml").write_text(
        "[general]\ncaption_extension = '.txt'\nenable_bucket = true\nmin_bucket_reso = 64\n"
        "[[datasets]]\nresolution = 64\nbatch_size = 2\n"
        f"[[datasets.subsets]]\nimage_dir = '{folder.as_posix()}'\n"
    )
    return folder


def test_one_of_everything_is_said_as_one(one: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 1 --d 1\n")
    more = [
        "--max_train_steps=1",
        "--early_stop",
        "--validate_every_n_steps=1",
        "--sample_every_n_steps=1",
    ]
    more += [f"--sample_prompts={prompts}", "--xformers", "--lowram", "--mem_eff_attn"]
    data, out = one / "data.toml", tmp_path / "o"
    sheet = f"--html={tmp_path / 'sheet.html'}"
    dataset_command = ["dataset", str(data), "--token=zibu", f"--model={MODEL}", sheet]
    low_rate = [*flags(data, out, *more), "--learning_rate=1e-9", "--dry_run"]
    debug = [*flags(data, out, *more), "--debug_dataset"]
    inspect = ["inspect", str(out / "zibu.safetensors"), f"--model={MODEL}"]
    results = {
        "plan": captured(lambda: train_command("sd", [*flags(data, out, *more), "--dry_run"])),
        "run": captured(lambda: train_command("sd", flags(data, out, *more))),
        "dataset": captured(lambda: main(dataset_command)),
        "data of a run": captured(lambda: train_command("sd", debug)),
        "report": captured(lambda: main(["report", str(out)])),
        "inspect": captured(lambda: main(inspect)),
        "low rate": captured(lambda: train_command("sd", low_rate)),
    }
    texts = {name: done.stdout + done.stderr for name, done in results.items()}
    texts |= {"page": Seen((out / "zibu-report.html").read_text(encoding="utf-8")).text}
    texts |= {"contact sheet": Seen((tmp_path / "sheet.html").read_text(encoding="utf-8")).text}
    assert {name: done.returncode for name, done in results.items() if done.returncode} == {}, texts
    assert {name: found[0] for name, text in texts.items() if (found := WRONG.search(text))} == {}
    assert "1 image smaller than half the training size" in texts["dataset"]
    assert "1 of 3 captions does not contain `zibu`" in texts["dataset"]
    assert "--mem_eff_attn, --xformers are not needed" in texts["run"]
    assert "run     at most 1 step, 1 epoch," in texts["plan"]
    assert ", 3 images in " in texts["plan"]


def test_a_page_of_one_of_everything() -> None:
    tool = Tool(tool="t", loads=True, same=True, difference=0.0, write="w", why="")
    record = Record(
        image_count=1,
        tools=[tool],
        left_out=dict.fromkeys(("shots", "images", "rows", "warnings"), 1),
    )
    assert not WRONG.search(Seen(render_report(record)).text)


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (["--xformers"], "--xformers is not needed"),
        (["--xformers", "--sdpa"], "--xformers, --sdpa are not needed"),
    ],
)
def test_several_flags_are_spoken_of_as_several(
    given: list[str], note: str, tmp_path: Path
) -> None:
    assert notes(parse("sd", flags(tmp_path, tmp_path, *given), "test"))[0].startswith(note)
    assert [of_many(reason) for reason in ("is not x", "has no y", "does z")] == [
        "are not x",
        "have no y",
        "does z",
    ]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 kB"),
        (1, "1 kB"),
        (2504, "3 kB"),
        (2**20, "1.0 MB"),
        (12.35 * 2**20, "12.3 MB"),
        (3 * 2**30, "3.0 GB"),
    ],
)
def test_bytes_are_shown_in_the_unit_that_fits(size: float, shown: str) -> None:
    assert sized(size) == shown
