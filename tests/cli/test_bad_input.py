"""Bad input: one clear error each, exit code 2, at once, before any model is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coinage.cli.train import train_command
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.run import MODEL
from coinage.embeddings.reading import read
from tests.helpers import captured, flags, timed

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "train_textual_inversion.py"


def run(argv: list[str], script: Path = SCRIPT) -> tuple[subprocess.CompletedProcess[str], float]:
    return timed([sys.executable, script, *argv])


def run_here(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Where how fast a process is does not matter."""
    return captured(lambda: train_command("sd", argv))


def without(argv: list[str], flag: str) -> list[str]:
    return [word for word in argv if not word.startswith(f"{flag}=")]


CASES = {
    "no model folder": (
        ["--pretrained_model_name_or_path=nowhere/model.safetensors"],
        "model not found",
    ),
    "mistyped folder": (
        ["--pretrained_model_name_or_path=nowhere/sd15"],
        "no such folder, and not in the local cache",
    ),
    "folder without a model": (["--pretrained_model_name_or_path={tmp}"], "not a diffusers model"),
    "checkpoint file": (["--pretrained_model_name_or_path={tmp}/file"], "not a model file"),
    "word in the vocabulary": (
        ["--token_string=circle"],
        "circle is already in the model's vocabulary",
    ),
    "two words": (["--token_string=my char"], "must be one word"),
    "no init word": (["--init_word="], "--init_word is empty"),
    "captions without the word": (["--token_string=wobo"], "no caption contains the word wobo"),
    "weights missing": (["--weights={tmp}/none.pt"], "--weights: file not found"),
    "output is a file": (["--output_dir={tmp}/file/out"], "--output_dir: cannot write there"),
    "output name is a path": (["--output_name=a/b"], "is not a file name"),
    "output name that Windows refuses": (["--output_name=a|b?"], "is not a file name"),
    "log folder is a file": (
        ["--logging_dir={tmp}/file"],
        "--logging_dir: cannot write there: this is a file, not a folder",
    ),
    "weights are a folder": (["--weights={tmp}"], "--weights: this is a folder, not a file"),
    "a rate among the arguments": (
        ["--optimizer_args=lr=3"],
        "the rate has a flag of its own\nhint: --learning_rate 3",
    ),
    "no lowest rate": (
        ["--lr_scheduler=cosine_with_min_lr"],
        "hint: add --lr_scheduler_min_lr_ratio 0.1",
    ),
    "no lowest rate after a warm-up": (
        ["--lr_scheduler=cosine_warmup_with_min_lr"],
        "cosine_warmup_with_min_lr needs the lowest rate",
    ),
    "unknown flag": (["--lerning_rate=1"], "did you mean `--learning_rate`"),
    "bad number": (["--learning_rate=fast"], "--learning_rate fast is not a number"),
    "no steps": (["--max_train_steps=0"], "must be at least 1"),
    "bad resolution": (["--resolution=big"], "is not a size"),
    "tracker without a folder": (["--log_with=tensorboard"], "needs --logging_dir"),
}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """None may be loaded."""
    monkeypatch.setattr(
        "coinage.training.setup.prepare", lambda *_: pytest.fail("a model is loaded")
    )


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", CASES)
def test_one_error_and_exit_code_2(moon_dataset: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    more, message = CASES[name]
    out = tmp_path / "out"
    done = run_here(flags(moon_dataset, out, *(word.format(tmp=tmp_path) for word in more)))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    "flag",
    [
        "--pretrained_model_name_or_path",
        "--token_string",
        "--init_word",
        "--output_dir",
        "--dataset_config",
    ],
)
def test_missing_flags(moon_dataset: Path, tmp_path: Path, flag: str) -> None:
    done, seconds = run(without(flags(moon_dataset, tmp_path), flag))
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert (flag.removeprefix("--").split("_")[0]) in done.stderr
    assert seconds < 2


def test_no_images_and_broken_images(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, CONCEPTS["moon"], "zibu", seed=0)
    (tmp_path / "images" / "01.png").write_bytes(b"")
    (tmp_path / "images" / "02.png").write_text("text")
    done = run_here(flags(dataset, tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("error: unreadable image") == 2
    shutil.rmtree(tmp_path / "images")
    done = run_here(flags(dataset, tmp_path / "out"))
    assert done.returncode == 2
    assert "image folder not found" in done.stderr


@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write in"
)
def test_output_where_nobody_may_write(moon_dataset: Path) -> None:
    done, seconds = run(flags(moon_dataset, Path("/proc/coinage")))
    assert done.returncode == 2
    assert "--output_dir: cannot write there" in done.stderr
    assert seconds < 2


def test_some_captions_without_the_word_are_a_warning_and_idle_flags_a_note(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, CONCEPTS["moon"], "zibu", seed=0)
    (tmp_path / "images" / "01.txt").write_text("a moon")
    done = run_here(
        flags(
            dataset, tmp_path / "out", "--max_train_steps=1", "--log_config", "--save_model_as=pt"
        )
    )
    assert done.returncode == 0, done.stderr
    assert "warning: 1 of 8 captions does not contain `zibu`" in done.stderr
    assert done.stderr.count("note: --log_config has no effect without --logging_dir") == 1
    assert (tmp_path / "out" / "zibu.pt").is_file()


@pytest.mark.parametrize(
    ("script", "more", "asked"),
    [
        ("sdxl_train_textual_inversion.py", [], "Stable Diffusion XL"),
        ("train_textual_inversion.py", ["--v2"], "Stable Diffusion 2.x"),
    ],
)
def test_the_wrong_script_or_flag_names_both_families(
    moon_dataset: Path, tmp_path: Path, script: str, more: list[str], asked: str
) -> None:
    done, seconds = run(flags(moon_dataset, tmp_path / "out", *more), ROOT / script)
    assert done.returncode == 2
    assert f"this is a Stable Diffusion 1.x model, and the command is for {asked}" in done.stderr
    assert done.stderr.count("error:") == 1
    assert seconds < 2


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder_2": None}, "Stable Diffusion XL model"),
        (
            {"unet/config.json": '{"in_channels": 5}'},
            "a depth model: its UNet has 5 input channels",
        ),
        ({"unet/config.json": "[]"}, "settings cannot be read"),
        ({"unet/config.json": "{"}, "settings cannot be read"),
        ({"unet/config.json": '{"cross_attention_dim": 1024}'}, "a Stable Diffusion 2.x model"),
    ],
)
def test_other_kinds_of_models(
    moon_dataset: Path, tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    model = tmp_path / "model"
    for part in ("scheduler", "text_encoder", "tokenizer", "unet", "vae"):
        (model / part).mkdir(parents=True)
    for name, text in change.items():
        if text is None:
            (model / name).mkdir()
        else:
            (model / name).write_text(text)
    done = run_here(
        flags(moon_dataset, tmp_path / "out", f"--pretrained_model_name_or_path={model}")
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_a_vocabulary_in_one_file_is_read_too(moon_dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    vocabulary = json.loads((model / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    merges = (model / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    (model / "tokenizer" / "vocab.json").unlink()
    content = {
        "model": {"vocab": vocabulary, "merges": merges},
        "added_tokens": [{"content": "wobo"}],
    }
    (model / "tokenizer" / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    for word in ("circle", "wobo"):
        done = run_here(
            flags(
                moon_dataset,
                tmp_path / "out",
                f"--pretrained_model_name_or_path={model}",
                f"--token_string={word}",
            )
        )
        assert done.returncode == 2
        assert f"{word} is already in the model's vocabulary" in done.stderr


@pytest.mark.parametrize("more", [["--seed=-1"], ["--output=/proc/coinage"]])
def test_demo_refuses_what_cannot_work(more: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coinage.cli.main", "demo", *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: --" in done.stderr


def test_a_date_that_is_none(
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert train_command("sd", flags(moon_dataset, tmp_path / "o")) == 2
    assert "SOURCE_DATE_EPOCH=yesterday is not a time" in capsys.readouterr().err


def test_texts_that_are_no_text_cost_no_word(moon_dataset: Path, tmp_path: Path) -> None:
    assert (
        train_command(
            "sd", flags(moon_dataset, tmp_path, "--max_train_steps=1", "--metadata_title=x\udcff")
        )
        == 0
    )
    assert read(tmp_path / "zibu.safetensors").metadata["modelspec.title"] == "x?"


def test_where_messages_go(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str, *more: str) -> tuple[int, str, str]:
        code = train_command(
            "sd", flags(moon_dataset, tmp_path / name, "--max_train_steps=1", *more)
        )
        return code, *capsys.readouterr()

    code, _, error = train("a", f"--console_log_file={tmp_path / 'logs' / 'run.log'}")
    assert code == 0
    assert "saved" not in error
    assert "saved" in (tmp_path / "logs" / "run.log").read_text()
    code, out, error = train("b", "--console_log_simple")
    assert "saved" in out
    assert "saved" not in error
    code, _, error = train("c", "--console_log_file=/proc/coinage/run.log")
    assert code == 1
    assert "--console_log_file: cannot write there" in error
