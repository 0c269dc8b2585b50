"""Dataset files: schema, precedence, and all problems at once."""

import json
from pathlib import Path

import pytest

from coinage.cli.build import build
from coinage.cli.parse import parse
from coinage.config import DataConfig
from coinage.errors import ConfigError

GUIDE = """
[general]
shuffle_caption = false
caption_extension = ".txt"
keep_tokens = 1

[[datasets]]
resolution = 512 # 1024 for SDXL
batch_size = 4
enable_bucket = true

[[datasets.subsets]]
image_dir = "images"
caption_extension = ".txt"
num_repeats = 10
"""


BUCKETS = '[general]\nenable_bucket = true\n[[datasets]]\nresolution = 512\nsubsets = [{image_dir = "a"}]\n'


def read(tmp_path: Path, text: str, *more: str, suffix: str = ".toml") -> tuple[DataConfig, list[str]]:
    file = tmp_path / f"dataset{suffix}"
    file.write_text(text, encoding="utf-8")
    args = ["--pretrained_model_name_or_path=m", "--token_string=t", "--output_dir=o", f"--dataset_config={file}", *more]
    config, idle = build(parse("sd", args, "test"))
    return config.data, idle


def test_the_guides_example(tmp_path: Path) -> None:
    (dataset,) = read(tmp_path, GUIDE)[0].datasets
    assert (dataset.resolution_wh, dataset.batch_size, dataset.buckets.enabled) == ((512, 512), 4, True)
    (subset,) = dataset.subsets
    assert (subset.num_repeats, subset.caption_extensions, subset.captions.keep_tokens) == (10, (".txt",), 1)


def test_precedence_is_subset_dataset_general_flag_default(tmp_path: Path) -> None:
    text = """
    [general]
    keep_tokens = 1
    num_repeats = 3
    [[datasets]]
    resolution = [512, 768]
    keep_tokens = 2
    [[datasets.subsets]]
    image_dir = "a"
    [[datasets.subsets]]
    image_dir = "b"
    keep_tokens = 5
    flip_aug = false
    """
    data, _ = read(tmp_path, text, "--keep_tokens=9", "--dataset_repeats=7", "--flip_aug", "--train_batch_size=6")
    (dataset,) = data.datasets
    first, second = dataset.subsets
    assert dataset.resolution_wh == (512, 768)
    assert (first.captions.keep_tokens, second.captions.keep_tokens) == (2, 5)
    assert (first.num_repeats, dataset.batch_size) == (3, 6)
    assert (first.flip, second.flip) == (True, False)


def test_json_is_read_alike(tmp_path: Path) -> None:
    text = json.dumps({"datasets": [{"resolution": 64, "subsets": [{"image_dir": "a"}]}]})
    (dataset,) = read(tmp_path, text, suffix=".json")[0].datasets
    assert (dataset.resolution_wh, dataset.batch_size) == ((64, 64), 1)


def test_keys_without_effect_are_named(tmp_path: Path) -> None:
    assert read(tmp_path, GUIDE.replace("keep_tokens = 1", "color_aug = true"))[1] == ["color_aug"]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = """
    [general]
    image_dir = "x"
    [[datasets]]
    resolution = "512"
    bucket_step = 64
    [[datasets.subsets]]
    num_repeats = 2.0
    flip_aug = 1
    [[datasets.subsets]]
    image_dir = "b"
    batch_size = 2
    """
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    found = str(caught.value)
    for part in (
        "key `image_dir` does not belong here",
        '`resolution = "512"` is not an integer, or two: [width, height]',
        "unknown key `bucket_step`",
        "did you mean `bucket_reso_steps`?",
        "`num_repeats = 2.0` is not an integer",
        "`flip_aug = 1` is not true or false",
        "[[datasets]] 1, [[datasets.subsets]] 2",
        "key `batch_size` does not belong here",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"at least one \[\[datasets\]\]"),
        ("[[datasets]]\nresolution = 64\nsubsets = []", r"at least one \[\[datasets.subsets\]\]"),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"', "`resolution` is missing"),
        ("[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nnum_repeats = 1", "`image_dir` is missing"),
        ('[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\nnum_repeats = 0', "at least 1"),
        ('[[datasets]]\nresolution = 64\nenable_bucket = true\n[[datasets.subsets]]\nimage_dir = "a"', "below `min_bucket_reso` 256"),
        (BUCKETS + "min_bucket_reso = 32", "`min_bucket_reso` 32 is below `bucket_reso_steps` 64"),
        (BUCKETS + "bucket_reso_steps = 48", "48 is not a multiple of 64"),
        ('[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\ncaption_separator = ""', "must not be empty"),
        ('[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\nkeep_tokens = -1', "must not be negative"),
        ('[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\nmetadata_file = "m.json"', "not supported yet"),
        ('[[datasets]]\nresolution = 2048\nenable_bucket = true\n[[datasets.subsets]]\nimage_dir = "a"', "above `max_bucket_reso` 1024"),
        ("[genral]\n", "did you mean `general`"),
        ("[[datasets", "cannot read the dataset config"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_folder_layout(tmp_path: Path) -> None:
    for name in ("5_mychar", "10_a_b c", "7", "cat", "0_x", "-2_y", "x_5"):
        (tmp_path / "train" / name).mkdir(parents=True)
    args = ["--pretrained_model_name_or_path=m", "--token_string=t", "--output_dir=o", "--resolution=64,96"]
    config, _ = build(parse("sd", [*args, f"--train_data_dir={tmp_path / 'train'}"], "test"))
    (dataset,) = config.data.datasets
    assert dataset.resolution_wh == (64, 96)
    found = [(s.num_repeats, s.class_tokens) for s in dataset.subsets]
    assert found == [(10, "a_b c"), (5, "mychar"), (7, "")]
    with pytest.raises(ConfigError, match="no usable subfolder"):
        build(parse("sd", [*args, f"--train_data_dir={tmp_path / 'train' / 'cat'}"], "test"))


def test_regularisation_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\n[[datasets.subsets]]\nimage_dir = "b"\nis_reg = true\n'
    (dataset,) = read(tmp_path, text)[0].datasets
    assert [str(s.image_dir) for s in dataset.subsets] == ["a"]
    assert "regularisation images are left out" in caplog.text


def test_every_dataset_is_checked(tmp_path: Path) -> None:
    one = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n"
    two = "[[datasets]]\nresolution = 4\n[[datasets.subsets]]\nimage_dir = 'b'\nnum_repeats = 0\n"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, one + two)
    assert len(caught.value.problems) == 3


def test_caption_rules_are_read(tmp_path: Path) -> None:
    text = """
    [[datasets]]
    resolution = 64
    [[datasets.subsets]]
    image_dir = "a"
    enable_wildcard = true
    keep_tokens_separator = "|||"
    secondary_separator = ";;;"
    token_warmup_step = 0.1
    token_warmup_min = 2
    caption_tag_dropout_rate = 0.3
    """
    rules = read(tmp_path, text, "--max_train_steps=1000")[0].datasets[0].subsets[0].captions
    assert (rules.wildcard, rules.keep_separator, rules.secondary_separator) == (True, "|||", ";;;")
    assert (rules.warmup_steps, rules.warmup_min, rules.tag_dropout) == (100, 2, 0.3)
    with pytest.raises(ConfigError, match="`caption_dropout_rate` is not for Textual Inversion"):
        read(tmp_path, text + "caption_dropout_rate = 0.1\n")


def test_a_folder_named_twice_is_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = ("a", "a/", "./a", "b")
    text = "[[datasets]]\nresolution = 64\n" + "".join(f'[[datasets.subsets]]\nimage_dir = "{f}"\n' for f in folders)
    (dataset,) = read(tmp_path, text)[0].datasets
    assert [str(s.image_dir) for s in dataset.subsets] == ["a", "b"]
    assert caplog.text.count("is in this dataset already") == 2
