"""What `coinage train` decides where nothing is said; the two scripts keep sd-scripts' defaults."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from coinage.cli.main import main
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.config import TrainConfig
from coinage.demo.run import MODEL
from coinage.models.hub_files import native_side
from coinage.settings.discover import complete
from coinage.settings.flags import DECIDED, FOUND


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (80, 64), "red").save(folder / "1.png")
    return folder


def built(images: Path, *more: str, script: str = "coinage") -> TrainConfig:
    given = (
        f"--pretrained_model_name_or_path={MODEL}",
        f"--train_data_dir={images}",
        "--token_string=zibu",
        "--init_word=shape",
    )
    return complete(
        parse(script, [*given, f"--output_dir={images.parent / 'out'}", *more], "test")
    )[0]


def test_without_optimizer_and_rate_the_measured_best_is_taken(images: Path) -> None:
    optim = built(images).optim
    assert (optim.name, optim.schedule) == ("Directional", "inverse_sqrt")
    assert (optim.learning_rate, optim.timescale) == (0.5, 5)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--learning_rate=1e-3",), ("AdamW", 1e-3, "constant")),
        (("--optimizer_type=Lion",), ("Lion", 2e-6, "constant")),
        (("--use_8bit_adam",), ("AdamW8bit", 2e-6, "constant")),
        (
            ("--optimizer_type=Directional", "--learning_rate=0.05"),
            ("Directional", 0.05, "constant"),
        ),
        (("--lr_scheduler=linear",), ("Directional", None, "linear")),
    ],
)
def test_what_is_said_is_done_and_the_rest_is_as_in_sd_scripts(
    images: Path, more: tuple[str, ...], expected: tuple[str, float | None, str]
) -> None:
    optim = built(images, *more).optim
    name, rate, schedule = expected
    assert (optim.name, optim.schedule) == (name, schedule)
    assert rate is None or optim.learning_rate == rate


def test_the_config_file_says_it_too(images: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("learning_rate = 3e-3\n", encoding="utf-8")
    assert built(images, f"--config_file={tmp_path / 'settings.toml'}").optim.name == "AdamW"


def test_the_scripts_keep_the_defaults_of_sd_scripts(images: Path) -> None:
    config = built(images, "--resolution=64", script="sd")
    assert (config.optim.name, config.optim.learning_rate, config.optim.schedule) == (
        "AdamW",
        2e-6,
        "constant",
    )
    assert (config.save.format, config.loop.max_steps, config.data.cache_latents) == (
        "pt",
        1600,
        False,
    )


def test_a_folder_of_images_is_enough(images: Path) -> None:
    config = built(images)
    (dataset,) = config.data.datasets
    assert dataset.resolution_wh == (64, 64), "the demo model's own size"
    assert dataset.subsets[0].captions.template == "object"
    assert config.data.cache_latents
    assert config.save.format == "safetensors"


def test_a_run_ends_by_itself_where_no_length_is_said(images: Path) -> None:
    assert built(images).loop.early_stop
    assert not built(images, "--max_train_steps=50").loop.early_stop
    assert not built(images, "--max_train_epochs=5").loop.early_stop
    assert built(images, "--max_train_steps=50", "--early_stop").loop.early_stop


def test_a_word_that_starts_from_nothing_is_searched_for(images: Path) -> None:
    given = (
        f"--pretrained_model_name_or_path={MODEL}",
        f"--train_data_dir={images}",
        "--token_string=zibu",
        f"--output_dir={images}/out",
    )
    assert complete(parse("coinage", given, "test"))[0].word.search
    assert not built(images).word.search
    assert not complete(parse("sd", [*given, "--resolution=64"], "test"))[0].word.search


def test_captions_that_are_there_are_read(images: Path) -> None:
    (images / "1.txt").write_text("a photo of zibu", encoding="utf-8")
    assert built(images).data.datasets[0].subsets[0].captions.template is None


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("1.TXT", None),
        ("1.png.txt", None),
        ("1.caption", None),
        ("metadata.jsonl", None),
        ("notes.txt", "object"),
        ("readme.txt", "object"),
        ("2.txt", "object"),
        ("._1.txt", "object"),
        ("__MACOSX/._1.png", "object"),
        (".ipynb_checkpoints/1.txt", "object"),
    ],
)
def test_only_texts_named_like_an_image_are_captions(
    images: Path, name: str, template: str | None
) -> None:
    (images / name).parent.mkdir(exist_ok=True)
    (images / name).write_text("a photo of zibu", encoding="utf-8")
    assert built(images).data.datasets[0].subsets[0].captions.template == template


def test_pixels_that_vary_are_not_kept(images: Path) -> None:
    assert not built(images, "--random_crop").data.cache_latents


def test_the_own_size_of_a_model(tmp_path: Path) -> None:
    assert native_side(str(MODEL)) == 64
    assert native_side(str(tmp_path / "nothing.safetensors")) is None


def test_the_help_shows_what_coinage_train_takes(capsys: pytest.CaptureFixture[str]) -> None:
    def helped(run: Callable[[], int]) -> str:
        with pytest.raises(SystemExit):
            run()
        return " ".join(capsys.readouterr().out.split())

    own, script = (
        helped(lambda: main(["train", "--help"])),
        helped(lambda: train_command("sd", ["--help"])),
    )
    assert {name for name in DECIDED if name not in FOUND} == set()
    for name, value in FOUND.items():
        assert f"Default: {value}." in own, name
        assert f"Default: {value}." not in script, name
    assert "Optimizer steps. Default: 1600." in script


def test_the_head_of_a_run_says_what_takes_the_place_of_captions(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        f"--pretrained_model_name_or_path={MODEL}",
        f"--train_data_dir={images}",
        f"--output_dir={tmp_path}",
        "--dry_run",
    ]
    assert main(["train", *given, "--token_string=zorg"]) == 0
    shown = capsys.readouterr().err
    assert (
        "data    64x64, 1 bucket, 1 image in 1 batch of 1\n"
        '        captions: sentences such as "a photo of a zorg"\n' in shown
    )
    assert "2 embeddings in" in shown
    assert " MB" not in shown, "what is small is told in kB"
    (images / "1.txt").write_text("a red zorg")
    assert main(["train", *given, "--token_string=zorg"]) == 0
    assert "captions:" not in capsys.readouterr().err
