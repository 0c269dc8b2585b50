"""`coinage dataset` and --debug_dataset, as a user runs them."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.cli.main import main
from coinage.demo.run import MODEL
from tests.cli.test_bad_input import ROOT, run
from tests.data.pictures import picture
from tests.helpers import captured, flags, timed

TOML = (
    "[[datasets]]\nresolution = 64\nbatch_size = 2\nenable_bucket = false\n"
    '[[datasets.subsets]]\nimage_dir = "{}"\nnum_repeats = 2\n'
)


def dataset(*argv: object) -> subprocess.CompletedProcess[str]:
    return captured(lambda: main(["dataset", *map(str, argv)]))


def start(*argv: object) -> tuple[subprocess.CompletedProcess[str], float]:
    """As a user does; and the seconds of the processor that it takes."""
    return timed([sys.executable, "-m", "coinage.cli.main", "dataset", *map(str, argv)], ROOT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images: one upright by its tag, one small, one whose caption lacks the word."""
    images = tmp_path / "images"
    picture(images / "a.png", (64, 64), caption="a photo of zibu, red")
    picture(images / "b.png", (20, 20), caption="zibu on a table")
    picture(images / "c.png", (160, 64), caption="nothing to see")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 100)).save(images / "d.jpg", exif=exif)
    (images / "d.txt").write_text("zibu " + "red " * 80)
    (tmp_path / "data.toml").write_text(TOML.format(images), encoding="utf-8")
    return tmp_path


def test_the_summary(folder: Path) -> None:
    done = dataset(folder / "data.toml", "--token=zibu", "--num_vectors=2", f"--model={MODEL}")
    assert done.returncode == 0, done.stderr
    out = done.stdout
    for text in (
        "4 images, 8 with repeats, 4 batches per epoch",
        "64x64, batch size 2",
        "4 images x 2",
        "num_repeats = 2  ([[datasets.subsets]] 1)",
        "captions: 3 of 4 contain the word",
        "longest 82 (limit 75); 1 caption over it: d.jpg 82",
        "word: ids 739 to 740",
        "turned upright: 1 (d.jpg)",
        "smaller than half the training size: 1 (b.png)",
        "tiny: 1 (b.png)",
        "more than a quarter cropped: 2 (c.png, d.jpg)",
        "[739] [740]",
    ):
        assert text in out, text
    assert "warning: 1 of 4 captions does not contain `zibu`" in done.stderr
    assert (
        "note: 1 image smaller than half the training size, blurred when enlarged: b.png"
        in done.stderr
    )


def test_numbers_for_machines(folder: Path) -> None:
    done = dataset(folder / "data.toml", "--token=zibu", f"--model={MODEL}", "--json", "--flip_aug")
    found = json.loads(done.stdout)
    assert (found["images"], found["batches_per_epoch"]) == (4, 4)
    assert (found["captions"]["never"], found["captions"]["total"]) == (1, 4)
    assert found["captions"]["tokens"]["longer_than_limit"] == 1
    flat, lacking = (warning["what"] for warning in found["warnings"][:2])
    assert flat == "4 of 4 images are a single flat colour"
    assert lacking.startswith("1 of 4 captions does not contain")
    sample = found["samples"][3]
    assert (sample["size"], sample["bucket"], sample["resized"], sample["crop"]) == (
        [100, 64],
        [64, 64],
        [100, 64],
        [18, 0],
    )
    assert sample["size_conditioning"] == [64, 100, 0, 18, 64, 64]
    assert (sample["rotated"], sample["flip"]) == (True, True)
    assert sample["captions"][0]["ids"][0][1] == 739
    assert len(sample["captions"][0]["ids"][0]) == 77


def test_long_captions_show_their_chunks(folder: Path) -> None:
    done = dataset(
        folder / "data.toml", "--token=zibu", f"--model={MODEL}", "--json", "--max_token_length=150"
    )
    chunks = json.loads(done.stdout)["samples"][3]["captions"][0]["ids"]
    assert [len(chunk) for chunk in chunks] == [77, 8]


def test_a_folder_needs_no_file(folder: Path) -> None:
    done = dataset(folder / "images", "--resolution=64", "--token=zibu")
    assert done.returncode == 0, done.stderr
    assert "4 images" in done.stdout
    assert "give --model to count them" in done.stdout
    (folder / "images").rename(folder / "3_zibu")
    done = dataset(folder, "--resolution=64")
    assert "4 images x 3" in done.stdout
    assert "give --token" in done.stdout


def test_a_folder_is_looked_at_in_the_models_own_size(folder: Path) -> None:
    done = dataset(folder / "images", "--token=zibu", f"--model={MODEL}")
    assert done.returncode == 0, done.stderr
    assert "dataset 1: 64x64" in done.stdout
    assert (
        "dataset 1: 32x32"
        in dataset(folder / "images", "--resolution=32", f"--model={MODEL}").stdout
    )
    assert "`resolution` is missing" in dataset(folder / "images", "--token=zibu").stderr


def test_counts_of_one(folder: Path) -> None:
    for name in "acd":
        next((folder / "images").glob(f"{name}.[pj]*")).unlink()
        (folder / "images" / f"{name}.txt").unlink()
    done = dataset(folder / "images", "--token=zibu", "--resolution=64")
    assert "1 image, 1 batch per epoch" in done.stdout
    assert "1 image x 1" in done.stdout


def test_machines_get_the_errors_too(folder: Path) -> None:
    for words in (
        [folder / "data.toml", "--resolution=4", "--use_object_template", "--use_style_template"],
        [folder / "gone"],
    ):
        done = dataset(*words, "--json")
        assert done.returncode == 2
        assert json.loads(done.stdout)["errors"]
    (folder / "empty").mkdir()
    done = dataset(folder / "empty", "--resolution=64", "--json")
    assert "no usable subfolder" in done.stderr


def test_the_seed_of_held_out_images_is_asked_for(folder: Path) -> None:
    assert (
        "pass the --seed that you train with"
        in dataset(folder / "data.toml", "--validation_split=0.5").stderr
    )
    for more in ("--seed=1", "--validation_seed=1"):
        assert (
            "pass the --seed"
            not in dataset(folder / "data.toml", "--validation_split=0.5", more).stderr
        )


def test_the_contact_sheet_shows_every_image(folder: Path) -> None:
    picture(folder / "images" / "e.png", caption="<b>zibu</b> & more")
    done = dataset(
        folder / "data.toml", "--token=zibu", f"--model={MODEL}", f"--html={folder / 'sheet.html'}"
    )
    assert done.returncode == 0, done.stderr
    page = (folder / "sheet.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 5
    assert page.count("lacks the word") == 1
    assert page.count("81 tokens: cut") == 1
    assert page.count("turned upright") == 1
    assert "<mark>zibu</mark>" in page
    assert "<mark>739</mark>" in page
    assert "&lt;b&gt;" in page
    assert "<b>zibu" not in page, "captions are text, not markup"
    assert "http" not in page


def test_the_contact_sheet_shows_what_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (128, 64), (0, 0, 200)).save(tmp_path / "images" / "wide.png")
    done = dataset(
        tmp_path / "images",
        "--resolution=64",
        "--token=zibu",
        "--use_object_template",
        f"--html={tmp_path / 'sheet.html'}",
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "128x64 &rarr; 64x64; the pale part is cut off" in page
    jpeg = page.split("data:image/jpeg;base64,")[1].split('"')[0]
    shown = Image.open(io.BytesIO(base64.b64decode(jpeg)))
    across, down = shown.size
    assert across == 2 * down
    left, middle, right = (
        shown.getpixel((across * eighth // 8, down // 2)) for eighth in (1, 4, 7)
    )
    assert isinstance(left, tuple)
    assert isinstance(middle, tuple)
    assert isinstance(right, tuple)
    assert min(left[0], right[0]) > 150
    assert middle[0] < 50


def test_everything_wrong_is_told_together_and_nothing_is_written(tmp_path: Path) -> None:
    images = tmp_path / "images"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.png", "cut.jpg"):
        images.mkdir(exist_ok=True)
        Image.fromarray(noise).save(images / name)
        (images / name).write_bytes((images / name).read_bytes()[:-700])
    (images / "zero.png").write_bytes(b"")
    (images / "text.webp").write_text("text")
    (images / "loop.png").symlink_to(images / "loop.png")
    for name, caption in (("latin", b"caf\xe9"), ("none", b"")):
        picture(images / f"{name}.png", (64, 64)).with_suffix(".txt").write_bytes(caption)
    picture(tmp_path / "masks" / "cut.png", (64, 60), "white")
    for name in ("zero", "text", "latin", "none"):
        picture(tmp_path / "masks" / f"{name}.png", (64, 64), "white")
    config = tmp_path / "data.toml"
    config.write_text(
        TOML.format(images) + f'conditioning_data_dir = "{tmp_path / "masks"}"\n', encoding="utf-8"
    )
    wrong = ("cut.png", "cut.jpg", "zero.png", "text.webp", "loop.png", "latin.txt", "none.txt")
    done = dataset(config, "--token=zibu")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for name in wrong:
        assert name in done.stderr, name
    assert "the mask is 64x60, and its image 64x64" in done.stderr
    out = tmp_path / "out"
    done, seconds = run([*flags(config, out, "--cache_latents_to_disk")])
    assert done.returncode == 2
    assert seconds < 2
    for name in wrong:
        assert name in done.stderr, name
    assert not out.exists()
    assert not (images / ".coinage").exists()


def test_exit_codes_and_their_reasons(folder: Path) -> None:
    done = dataset(folder / "data.toml", "--token=wobo")
    assert done.returncode == 2
    assert "no caption contains the word wobo" in done.stderr
    done = dataset(folder / "data.toml", "--token=zibu", "--require_token")
    assert done.returncode == 2
    assert "error: 1 of 4 captions does not contain" in done.stderr
    done = dataset(folder / "data.toml", "--token=circle", f"--model={MODEL}")
    assert done.returncode == 2
    assert "circle is already in the model's vocabulary" in done.stderr
    assert "no tokenizer found" in dataset(folder / "data.toml", "--model=nowhere").stderr
    for words, message in (
        ([], "no dataset given"),
        (["--token=zibu", folder / "data.toml"], "no dataset given"),
        (["none.toml"], "not found"),
        ([folder / "data.toml", "--tokn=x"], "unknown flag --tokn"),
        ([folder / "data.toml", "--num_vectors=76"], "does not fit in a prompt"),
        ([folder / "data.toml", "--background=nice"], "is not a colour"),
        ([folder / "images", "--resolution=-512"], "is too small"),
        ([folder / "images", "--resolution=9999999999999999999"], "is too large"),
        (
            [folder / "images", "--resolution=64", "--train_batch_size=0"],
            "`batch_size` must be at least 1",
        ),
        (
            [folder / "images", "--resolution=64", "--caption_separator=", "--shuffle_caption"],
            "`caption_separator` must not be empty",
        ),
        (
            [folder / "images", "--resolution=64", "--enable_bucket", "--bucket_reso_steps=0"],
            "`bucket_reso_steps` must be at least 1",
        ),
    ):
        done = dataset(*words)
        assert (done.returncode, done.stdout, done.stderr.count("error:")) == (2, "", 1)
        assert message in done.stderr


def test_any_console_and_any_name_will_do(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", (64, 64), caption="zibu \U0001f600")
    if os.name != "nt":  # a name that is not UTF-8
        for suffix in ("png", "txt"):
            (tmp_path / "images" / f"a.{suffix}").rename(tmp_path / "images" / f"\udce9.{suffix}")
    for more in ([], ["--json"], [f"--html={tmp_path / 'sheet.html'}"]):
        words = [
            sys.executable,
            "-m",
            "coinage.cli.main",
            "dataset",
            str(tmp_path / "images"),
            "--resolution=64",
            "--token=zibu",
            *more,
        ]
        done = subprocess.run(
            words,
            capture_output=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        )
        assert done.returncode == 0, done.stderr


def test_the_length_of_a_run_is_told(moon_dataset: Path, tmp_path: Path) -> None:
    done, _ = run(
        flags(
            moon_dataset,
            tmp_path,
            "--debug_dataset",
            "--max_train_epochs=3",
            "--gradient_accumulation_steps=2",
        )
    )
    assert "30 steps, 3 epochs" in done.stdout


def test_bad_images_may_be_skipped(folder: Path) -> None:
    (folder / "images" / "e.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "images" / "f.png")
    (folder / "images" / "f.png").write_bytes((folder / "images" / "f.png").read_bytes()[:-700])
    done = dataset(folder / "data.toml", "--token=zibu", "--skip_bad_images")
    assert done.returncode == 0, done.stderr
    assert "4 images" in done.stdout
    assert done.stderr.count("1 image is left out") == 2


def test_help_and_speed(folder: Path) -> None:
    assert "--num_vectors" in start("--help")[0].stdout
    assert (
        min(start(folder / "data.toml", "--token=zibu", f"--model={MODEL}")[1] for _ in range(2))
        < 1
    )


def test_the_command_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from coinage.cli.main import main; "
        "main(['dataset', *sys.argv[1:]]); print('torch' in sys.modules)"
    )
    words = [
        sys.executable,
        "-c",
        code,
        str(folder / "data.toml"),
        "--token=zibu",
        f"--model={MODEL}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "script", ["train_textual_inversion.py", "sdxl_train_textual_inversion.py"]
)
def test_debug_dataset_shows_token_ids_and_stops(
    moon_dataset: Path, tmp_path: Path, script: str
) -> None:
    more = (
        "--debug_dataset",
        f"--debug_dataset_out={tmp_path / 'debug'}",
        "--num_vectors_per_token=2",
    )
    done, seconds = run(flags(moon_dataset, tmp_path / "out", *more), ROOT / script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[739] [740]") == 8
    assert seconds < 2
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "debug" / "dataset.html").is_file()
    assert (
        len(
            json.loads((tmp_path / "debug" / "dataset.json").read_text(encoding="utf-8"))["samples"]
        )
        == 8
    )


def test_debug_dataset_fails_on_problems(moon_dataset: Path, tmp_path: Path) -> None:
    done, _ = run(flags(moon_dataset, tmp_path / "out", "--debug_dataset", "--token_string=wobo"))
    assert done.returncode == 2
    assert "no caption contains the word wobo" in done.stderr


def test_large_datasets_show_an_even_selection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinage.report.contact_sheet.MOST_IMAGES", 3)
    for i in range(9):
        picture(tmp_path / f"{i}.png", caption=f"zibu {i}")
    assert (
        main(
            [
                "dataset",
                str(tmp_path),
                "--resolution=8",
                "--token=zibu",
                f"--html={tmp_path / 'sheet.html'}",
            ]
        )
        == 0
    )
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "Shown: 3 of 9 images." in page
    assert page.count("<mark>zibu</mark>") == 1 + 3, (
        "title and captions: the word is marked without a model too"
    )
    assert [name in page for name in ("<b>0.png", "<b>1.png", "<b>3.png", "<b>6.png")] == [
        True,
        False,
        True,
        True,
    ]
    assert "9 images" in capsys.readouterr().out
