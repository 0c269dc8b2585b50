"""What strangers have written cannot steer a terminal: it is shown with escapes."""

import ast
import json
import logging
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coinage.cli.main import main
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.run import MODEL
from coinage.errors import CoinageError, Problem
from coinage.models.quiet import quiet_libraries
from coinage.report.page import render_report
from coinage.report.record import Record
from coinage.terminal.messages import message_of
from coinage.wording import DECEPTIVE_CHARACTERS
from tests.helpers import captured, flags

SRC = Path(__file__).parents[2] / "src" / "coinage"
# A title, a link, the clipboard, a cleared screen, C1's own sequences, a bell, line breaks, text
# from right to left.
HOSTILE = "a\x1b]0;PWN\x07\x1b]8;;x:y\x1b\\\x1b]52;c;QUFB\x07\x1b[2J\x9b31m\rb\nc\u202ed\u2028e\x7f"
PRINTERS = ("print", "Console", "Table", "pprint", "print_exc", "print_exception", "showwarning")
ALLOWED = [("terminal/progress.py", "sys.stdout.isatty")]
NAME = HOSTILE  # of a file: all but a slash can be in it
OURS = re.compile(r"\x1b\[(\d+(;\d+)*)?m")  # colours


def assert_harmless(text: str) -> None:
    """See that there are no control characters but line ends and our own colours."""
    left = OURS.sub("", text).replace("\r\n", "\n").replace("\n", "")
    wrong = [
        char for char in left if unicodedata.category(char) == "Cc" or char in DECEPTIVE_CHARACTERS
    ]
    assert not wrong, left


@dataclass
class World:
    """Files of strangers, and folders to write to."""

    folder: Path
    dataset: Path
    embedding: Path
    several: Path
    pickle: Path
    report: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world") / NAME
    root.mkdir()
    dataset = write_dataset(root, CONCEPTS["moon"], "zibu", seed=0)
    images = root / "images"
    for number, image in enumerate(sorted(images.glob("*.png"))[:2]):
        caption = f"a photo {HOSTILE} of [bold]zibu[/bold]" if number else HOSTILE
        (images / f"0{number}{NAME}.txt").write_text(caption, encoding="utf-8")
        image.with_suffix(".txt").unlink()
        image.rename(images / f"0{number}{NAME}.png")
    header = {
        "modelspec.trigger_phrase": HOSTILE,
        f"key {HOSTILE}": "[red]",
        "ti.token_string": HOSTILE,
    }
    save_file({"emb_params": torch.randn(2, 128)}, root / "word.safetensors", header)
    save_file(
        {HOSTILE: torch.randn(2, 128), f"{HOSTILE}2": torch.randn(2, 128)},
        root / "several.safetensors",
    )
    torch.save(
        {
            "string_to_param": {"*": torch.randn(2, 128)},
            "name": HOSTILE,
            "sd_checkpoint_name": HOSTILE,
        },
        root / "word.pt",
    )
    reports = root / f"{NAME}-reports"
    reports.mkdir()
    page = render_report(
        Record(name=HOSTILE, token=HOSTILE, status="finished", warnings=[HOSTILE], model=HOSTILE)
    )
    (reports / f"{NAME}-report.html").write_text(page, encoding="utf-8")
    (reports / f"{NAME}2-report.html").write_text("no report")
    return World(
        root,
        dataset,
        root / "word.safetensors",
        root / "several.safetensors",
        root / "word.pt",
        reports,
    )


def dataset_with(world: World, line: str) -> Path:
    path = world.folder / "other.toml"
    path.write_text(world.dataset.read_text(encoding="utf-8") + line, encoding="utf-8")
    return path


KEY = json.dumps(HOSTILE)
COMMANDS: dict[str, Callable[[World, Path], list[str]]] = {
    "dataset": lambda w, _: ["dataset", str(w.dataset), "--token=zibu", f"--model={MODEL}"],
    "dataset page": lambda w, tmp: ["dataset", str(w.dataset), "--token=zibu", f"--html={tmp / NAME}"],
    "dataset without its file": lambda w, _: ["dataset", f"{w.dataset}{NAME}"],
    "dataset key": lambda w, _: ["dataset", str(dataset_with(w, f"{KEY} = 1\n"))],
    "dataset value": lambda w, _: ["dataset", str(dataset_with(w, f"caption_prefix = [{KEY}]\n"))],
    "dataset folder": lambda w, _: [
        "dataset", str(dataset_with(w, f"[[datasets.subsets]]\nimage_dir = {KEY}\n"))
    ],
    "inspect": lambda w, _: ["inspect", str(w.embedding)],
    "inspect with a model": lambda w, _: ["inspect", str(w.embedding), f"--model={MODEL}"],
    "inspect a pickle": lambda w, _: ["inspect", str(w.pickle)],
    "inspect several": lambda w, _: ["inspect", str(w.several)],
    "inspect one of several": lambda w, _: ["inspect", str(w.several), "--key", HOSTILE],
    "inspect nothing": lambda w, _: ["inspect", HOSTILE],
    "convert": lambda w, tmp: ["convert", str(w.embedding), str(tmp / f"{NAME}.safetensors")],
    "convert several": lambda w, tmp: ["convert", str(w.several), str(tmp / "a.pt")],
    "convert flags": lambda w, tmp: [
        "convert", str(w.several), str(tmp / "a.pt"), "--rescale", HOSTILE, "--key", HOSTILE
    ],
    "verify": lambda w, _: ["verify", str(w.embedding), f"--model={MODEL}"],
    "verify without a model": lambda w, _: ["verify", str(w.embedding), f"--model={HOSTILE}"],
    "generate": lambda w, tmp: [
        "generate", str(MODEL), HOSTILE, f"--embedding={w.embedding}", "--steps=1", "--width=64",
        "--height=64", f"--output={tmp / NAME}"
    ],
    "generate without files": lambda w, _: [
        "generate", HOSTILE, "a", "--embedding", HOSTILE, "--vae", HOSTILE
    ],
    "report": lambda w, tmp: ["report", str(w.report), "--html", str(tmp / NAME)],
    "report of nothing": lambda w, _: ["report", f"{w.report}{NAME}"],
    "train": lambda w, tmp: ["train", *flags(w.dataset, tmp / NAME, "--dry_run")],
    "train data": lambda w, tmp: [
        "train", *flags(w.dataset, tmp / NAME, f"--debug_dataset_out={tmp / NAME}", "--debug_dataset")
    ],
    "train flags": lambda w, tmp: [
        "train", *flags(w.dataset, tmp, f"--{HOSTILE}", f"--optimizer_type={HOSTILE}")
    ],
    "train names": lambda w, tmp: [
        "train", *flags(w.dataset, tmp, f"--output_name={HOSTILE}", f"--vae={HOSTILE}")
    ],
    "demo": lambda _, tmp: ["demo", "--word", HOSTILE, "--export", str(tmp / NAME)],
    "demo of nothing": lambda _, tmp: ["demo", "--concept", HOSTILE, "--output", str(tmp)],
    "nothing": lambda *_: [HOSTILE],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_passes_control_characters_on(world: World, tmp_path: Path, name: str) -> None:
    words = COMMANDS[name](world, tmp_path)
    done = captured(lambda: main(words))
    assert done.returncode in (0, 1, 2)
    assert re.search(r"\\x1b|\\u001b", done.stdout + done.stderr), (
        "nothing of the stranger's text was shown"
    )
    for text in (done.stdout, done.stderr):
        assert_harmless(text)


@pytest.mark.parametrize(
    "name",
    [
        "dataset",
        "dataset key",
        "inspect",
        "inspect several",
        "convert",
        "report",
        "train",
        "train names",
    ],
)
def test_nor_on_a_terminal(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    terminals = pytest.importorskip("tests.terminals")
    with terminals.terminal(monkeypatch) as screen, redirect_stdout(sys.stderr):
        assert main(COMMANDS[name](world, tmp_path)) in (0, 1, 2)
    assert "\x1b[" in screen.text, "no colour: it was no terminal"
    assert_harmless(
        re.sub(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r(?=\x1b\[2K)|\r(?=\n)", "", screen.text)
    )


def test_a_line_break_is_structure_in_a_message_and_data_in_a_value() -> None:
    assert str(Problem("no\nfile", "a\nb", "do\nthis")) == "no\\nfile\n  --> a\\nb\nhint: do\\nthis"
    assert str(CoinageError("a\x1b", "b\x9b")) == "a\\x1b\n  --> b\\x9b"
    cases: tuple[tuple[str, Any, str], ...] = (
        ("%s\nthe run goes on", (Path("a\nb"),), "a\\nb\nthe run goes on"),
        ("%s", (Problem("a\x07", "b"),), "a\\x07\n  --> b"),
        ("%s: %s", ("w", CoinageError("a", "b\r")), "w: a\n  --> b\\r"),
        ("%d of %.1f, %r", (1, 2.0, "a\\b"), "1 of 2.0, 'a\\\\b'"),
        ("100 %\x1b", (), "100 %\\x1b"),
        ("%(a)s", ({"a": "b\n"},), "b\\n"),
    )
    for text, args, shown in cases:
        assert message_of(logging.LogRecord("", logging.INFO, "", 0, text, args, None)) == shown


def test_json_holds_no_control_characters(world: World) -> None:
    for words in (
        ["inspect", str(world.embedding), "--json"],
        ["report", str(world.report), "--json"],
    ):
        done = captured(partial(main, words))
        assert_harmless(done.stdout)
        assert HOSTILE in str_values(json.loads(done.stdout))


def str_values(tree: Any) -> list[str]:
    if isinstance(tree, dict | list):
        return [
            text
            for entry in (tree.values() if isinstance(tree, dict) else tree)
            for text in str_values(entry)
        ]
    return [tree] if isinstance(tree, str) else []


def test_nor_into_a_pipe(world: World) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coinage.cli.main", "report", world.report],
        capture_output=True,
        check=True,
    )
    assert b"\\x1b" in done.stdout
    assert b"\\x1b" in done.stderr
    for data in (done.stdout, done.stderr):
        assert_harmless(data.decode())


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_what_the_libraries_say_is_harmless_too(name: str) -> None:
    quiet_libraries()
    handlers = logging.getLogger(name).handlers
    assert handlers
    record = logging.LogRecord(
        name, logging.WARNING, "", 0, f"Some weights were not used: {HOSTILE}", (), None
    )
    for handler in handlers:
        assert handler.format(record).startswith("warning: Some weights")
        assert_harmless(handler.format(record))


def test_nothing_else_prints() -> None:
    """What prints by itself could forget the escapes."""
    found = []
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name.split(".")[-1] in PRINTERS or re.match(r"sys\.(__)?std(out|err)(__)?\.", name):
                found.append((path.relative_to(SRC).as_posix(), name))
    others = [
        (path, name)
        for path, name in found
        if path != "terminal/messages.py" and (path, name) not in ALLOWED
    ]
    assert len(found) > len(others)
    assert not others
