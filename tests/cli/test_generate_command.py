"""`coinage generate`, as a user runs it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coinage.cli.cmd_generate import generate_parser, next_number, prompts_of
from coinage.cli.main import main
from coinage.demo.reader import read as read_picture
from coinage.demo.run import MODEL
from coinage.demo.world import Scene
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from tests.cli.test_bad_input import ROOT
from tests.helpers import captured
from tests.tiny_models import write_folder

SMALL = ("--width=64", "--height=64", "--steps=20", "--cfg=4")


def generate(*argv: object) -> subprocess.CompletedProcess[str]:
    return captured(lambda: main(["generate", *map(str, argv)]))


def start(*argv: object) -> subprocess.CompletedProcess[str]:
    """As a user does."""
    words = [sys.executable, "-m", "coinage.cli.main", "generate", *map(str, argv)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)


def word(path: Path, *rows: str) -> Path:
    """An embedding that says what known words of the demo model say."""
    from transformers import CLIPTextModel, CLIPTokenizer

    table = CLIPTextModel.from_pretrained(MODEL / "text_encoder").get_input_embeddings().weight
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    ids = [tokenizer.encode(row, add_special_tokens=False)[0] for row in rows]
    write(
        path,
        Word({"emb_params": table[ids].detach().float()}, "zibu", 0, {"ti.token_string": "zibu"}),
    )
    return path


def picture(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_pictures_and_their_grid(tmp_path: Path) -> None:
    prompts = (
        "a photo of a red circle on a white background",
        "a photo of a blue square on a black background",
    )
    done = generate(
        MODEL, *prompts, *SMALL, "--count=2", "--seed=1", "--grid", f"--output={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "0000_1.png",
        "0001_2.png",
        "0002_1.png",
        "0003_2.png",
        "grid.png",
    ]
    assert picture(tmp_path / "grid.png").shape == (128, 128, 3)
    assert np.array_equal(
        picture(tmp_path / "grid.png")[64:, 64:], picture(tmp_path / "0003_2.png")
    )
    read = read_picture(picture(tmp_path / "0000_1.png"))
    assert (read.colour, read.background) == (Scene("circle", "red", "white").colour, "white")
    again = generate(MODEL, prompts[0], *SMALL, "--seed=1", f"--output={tmp_path / 'again'}")
    assert again.returncode == 0
    assert np.array_equal(
        picture(tmp_path / "again" / "0000_1.png"), picture(tmp_path / "0000_1.png")
    )


def test_words_say_what_their_vectors_say(tmp_path: Path) -> None:
    """A word of two vectors that are the rows of `red circle` draws what `red circle` draws."""
    two, one = (
        word(tmp_path / "two.safetensors", "red", "circle"),
        word(tmp_path / "one.pt", "black"),
    )
    plain = generate(
        MODEL,
        "a photo of a red circle on a black background",
        *SMALL,
        "--seed=3",
        f"--output={tmp_path / 'a'}",
    )
    words = generate(
        MODEL,
        "a photo of a zibu on a wobo background",
        *SMALL,
        "--seed=3",
        f"--output={tmp_path / 'b'}",
        "--embedding",
        two,
        f"wobo={one}",
    )
    assert (plain.returncode, words.returncode) == (0, 0), words.stderr
    assert "zibu: 2 vectors" in words.stderr
    assert np.array_equal(
        picture(tmp_path / "a" / "0000_3.png"), picture(tmp_path / "b" / "0000_3.png")
    )


def test_where_words_act_is_drawn_beside_the_picture(tmp_path: Path) -> None:
    files = [word(tmp_path / "zibu.pt", "circle"), f"wobo={word(tmp_path / 'v.pt', 'black')}"]
    prompts = ("a photo of a red zibu on a wobo background", "a photo of a red square")
    small = (*SMALL, "--steps=2", "--seed=3")
    plain = generate(MODEL, *prompts, *small, f"--output={tmp_path / 'a'}", "--embedding", *files)
    done = generate(
        MODEL, *prompts, *small, "--show-word", f"--output={tmp_path / 'b'}", "--embedding", *files
    )
    assert (plain.returncode, done.returncode) == (0, 0), done.stderr
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "0000_3.png", "0000_3.word.png", "0000_3.word2.png", "0001_3.png",
    ]  # fmt: skip
    assert "0000_3.word2.png: where wobo acts" in done.stderr.replace("\n", "")
    for name in ("0000_3.png", "0001_3.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    zibu, wobo = (picture(tmp_path / "b" / f"0000_3.{name}.png") for name in ("word", "word2"))
    assert zibu.shape == (64, 64, 3)
    assert not np.array_equal(zibu, wobo)
    assert next_number(tmp_path / "b") == 2
    assert "draws nothing" not in done.stderr


def test_a_map_of_no_word_is_not_drawn_in_silence(tmp_path: Path) -> None:
    given = ("--embedding", word(tmp_path / "zibu.pt", "circle"), "--show-word")
    # A flag that is given twice adds to the first
    more = (
        "--embedding",
        f"wobo={word(tmp_path / 'v.pt', 'black')}",
        *SMALL,
        "--steps=1",
        "--cfg=1",
    )
    done = generate(MODEL, "a red square", *given, *more, "--negative=zibu", f"--output={tmp_path}")
    assert done.returncode == 0
    assert "zibu: 1 vector" in done.stderr
    assert "wobo: 1 vector" in done.stderr
    assert "warning: --show-word draws nothing" in done.stderr


@pytest.mark.parametrize(
    ("family", "command"),
    [("sd2", generate), ("sdxl", generate), pytest.param("sdxl", start, marks=pytest.mark.slow)],
)
def test_other_families(
    family: str, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    model = write_folder(tmp_path / "model", family)
    done = command(
        model,
        "a (red:1.2) circle",
        "--width=64",
        "--height=64",
        "--steps=2",
        "--seed=1",
        f"--output={tmp_path / 'o'}",
    )
    assert done.returncode == 0, done.stderr
    assert picture(tmp_path / "o" / "0000_1.png").shape == (64, 64, 3)


def test_flags_stand_in_for_settings(tmp_path: Path) -> None:
    """A model that predicts v on a schedule that ends in noise, whose settings say neither."""
    own = MODEL.parent / "sd2"
    bare = tmp_path / "bare"
    shutil.copytree(own, bare)
    settings = bare / "scheduler" / "scheduler_config.json"
    told = json.loads(settings.read_text())
    settings.write_text(
        json.dumps(told | {"prediction_type": "epsilon", "rescale_betas_zero_snr": False})
    )
    flags = ("--v_parameterization", "--zero_terminal_snr")
    runs: dict[str, tuple[Path, Sequence[str]]] = {
        "own": (own, ()),
        "both": (bare, flags),
        "one": (bare, flags[:1]),
    }
    drawn, heard = {}, {}
    for name, (model, more) in runs.items():
        small = ("--width=64", "--height=64", "--steps=3", "--seed=1")
        done = generate(
            model, "a photo of a red circle", *small, *more, f"--output={tmp_path / name}"
        )
        assert done.returncode == 0, done.stderr
        drawn[name], heard[name] = picture(tmp_path / name / "0000_1.png"), done.stderr
    assert np.array_equal(drawn["own"], drawn["both"])
    assert not np.array_equal(drawn["own"], drawn["one"])
    assert ["add --zero_terminal_snr" in text for text in heard.values()] == [False, False, True]


def test_what_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    bad = tmp_path / "bad.safetensors"
    write(bad, Word({"emb_params": torch.zeros(1, 5)}, "zibu"))
    for more, message, code in (
        (["--embedding", tmp_path / "none.pt"], "--embedding: file not found", 2),
        (["--embedding", tmp_path / "file"], "not an embedding", 1),
        (
            ["--embedding", bad],
            "this file has vectors for emb_params 5 wide, and the model takes emb_params 128 wide",
            1,
        ),
        (
            ["--embedding", f"circle={word(tmp_path / 'w.pt', 'red')}"],
            "circle is already in the model's vocabulary",
            2,
        ),
        (["--steps=0"], "--steps 0 is out of range", 2),
        (["--cfg=nan"], "--cfg nan is out of range", 2),
        (["--show-word"], "--show-word: there is no learned word", 2),
        (["--width=8"], "--width 8 is too small", 2),
        (["--sampler=eulr"], "invalid choice", 2),
        (["--output", tmp_path / "file" / "x"], "--output: cannot write there", 2),
    ):
        done = generate(MODEL, "a circle", f"--output={tmp_path / 'o'}", *more)
        assert (done.returncode, done.stderr.count("error:")) == (code, 1), done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    done = generate(tmp_path / "nothing", "a circle")
    assert done.returncode == 2
    assert "model not found" in done.stderr


def test_two_files_of_one_word_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (
        str(word(tmp_path / name, "red")) for name in ("a.safetensors", "b.safetensors")
    )
    given = [
        "generate",
        str(MODEL),
        "zibu circle",
        *SMALL,
        "--seed=1",
        f"--output={tmp_path / 'o'}",
        "--embedding",
        first,
    ]
    assert main([*given, second]) == 2
    error = capsys.readouterr().err
    assert "two files give the word zibu" in error
    assert "NAME=FILE" in error
    assert error.count("error:") == 1
    two_vectors = str(word(tmp_path / "c.safetensors", "red", "black"))
    assert main([*given[:-1], two_vectors, f"zibu1={second}"]) == 2
    error = capsys.readouterr().err
    assert "zibu1 is a vector of both" in error
    assert error.count("error:") == 1
    assert main([*given, f"other={second}"]) == 0


def test_a_word_with_brackets_is_read(tmp_path: Path) -> None:
    given = ["generate", str(MODEL), *SMALL, "--seed=1"]
    file = word(tmp_path / "a.safetensors", "black")
    assert (
        main(
            [
                *given,
                f"--output={tmp_path / 'plain'}",
                "a photo of a red circle on a black background",
            ]
        )
        == 0
    )
    named = [
        f"--output={tmp_path / 'named'}",
        "a photo of a red circle on a [v] background",
        "--embedding",
        f"[v]={file}",
    ]
    assert main([*given, *named]) == 0
    assert np.array_equal(
        picture(tmp_path / "plain" / "0000_1.png"), picture(tmp_path / "named" / "0000_1.png")
    )


@pytest.mark.parametrize(
    ("model", "flags", "size"),
    [
        (str(MODEL), [], (64, 64)),
        ("some/model", [], (64, 64)),
        ("sd1.safetensors", [], (512, 512)),
        ("sd1.ckpt", [], (512, 512)),
        ("sdxl.safetensors", [], (1024, 1024)),
        (str(MODEL), ["--width=72"], (72, 64)),
        ("sd2.safetensors", ["--height=100", "--width=72"], (72, 96)),
        ("not/known", [], (0, 0)),
    ],
)
def test_the_size_is_the_models_own(
    model: str,
    flags: list[str],
    size: tuple[int, int],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a folder, a file and a hub id; 0 where nothing is known before the model is loaded."""
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(MODEL, snapshot)
    (tmp_path / "hub" / "models--some--model" / "refs").mkdir()
    (tmp_path / "hub" / "models--some--model" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    source = str(models / model) if (models / model).exists() else model
    (prompt,) = prompts_of(generate_parser().parse_args([source, "a circle", *flags]))
    assert (prompt.width, prompt.height) == size


def test_pictures_of_earlier_commands_stay(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    given = ["a circle", "--steps=1", "--seed=1", "--grid", f"--output={folder}"]
    assert generate(MODEL, *given).returncode == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert generate(MODEL, *given, "--width=72").returncode == 0
    assert all(path.read_bytes() == data for path, data in before.items())
    sizes = {path.name: picture(path).shape[:2] for path in folder.iterdir()}
    square, wide = (64, 64), (64, 72)
    assert sizes == {
        "0000_1.png": square, "0001_1.png": wide, "grid.png": square, "grid_2.png": wide,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("there", "number"),
    [
        ([], 0),
        (["0000_1.png", "0001_77.png"], 2),
        (
            [
                "0009_1.png",
                "00012-3.png",
                "grid.png",
                "grid_4.png",
                "12_x.txt",
                "_5.png",
                "²_1.png",
            ],
            10,
        ),
        (["12345_1.png", "0003_1.png"], 12346),
    ],
)
def test_numbers_go_on(there: list[str], number: int, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).touch()
    assert next_number(tmp_path) == number
    assert next_number(tmp_path / "nothing") == 0
