"""Dataset files: schema, precedence, and all problems at once."""

import json
from pathlib import Path

import pytest

from coinage.cli.parse import parse
from coinage.data.scan import scan
from coinage.data_config import DataConfig
from coinage.errors import ConfigError, Findings
from coinage.models.facts import FACTS
from coinage.settings.build_data import build_data
from coinage.settings.discover import complete
from tests.data.pictures import picture

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


def read(
    tmp_path: Path, text: str, *more: str, suffix: str = ".toml"
) -> tuple[DataConfig, Findings]:
    file = tmp_path / f"dataset{suffix}"
    file.write_text(text, encoding="utf-8")
    args = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        f"--dataset_config={file}",
        *more,
    ]
    config, findings = complete(parse("sd", args, "test"))
    return config.data, findings


def test_the_guides_example(tmp_path: Path) -> None:
    (dataset,) = read(tmp_path, GUIDE)[0].datasets
    assert (dataset.resolution_wh, dataset.batch_size, dataset.buckets.enabled) == (
        (512, 512),
        4,
        True,
    )
    (subset,) = dataset.subsets
    assert (subset.num_repeats, subset.caption_extensions, subset.captions.keep_tokens) == (
        10,
        (".txt",),
        1,
    )


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
    data, _ = read(
        tmp_path,
        text,
        "--keep_tokens=9",
        "--dataset_repeats=7",
        "--flip_aug",
        "--train_batch_size=6",
    )
    (dataset,) = data.datasets
    first, second = dataset.subsets
    assert dataset.resolution_wh == (512, 768)
    assert (first.captions.keep_tokens, second.captions.keep_tokens) == (2, 5)
    assert (first.num_repeats, dataset.batch_size) == (3, 6)
    assert (first.images.flip, second.images.flip) == (True, False)


def test_json_is_read_alike(tmp_path: Path) -> None:
    text = json.dumps({"datasets": [{"resolution": 64, "subsets": [{"image_dir": "a"}]}]})
    (dataset,) = read(tmp_path, text, suffix=".json")[0].datasets
    assert (dataset.resolution_wh, dataset.batch_size) == ((64, 64), 1)


def test_keys_without_effect_are_named(tmp_path: Path) -> None:
    text = GUIDE.replace("keep_tokens = 1", "network_multiplier = 1\ncustom_attributes = {a = 1}")
    notes = read(tmp_path, text)[1].notes
    assert [note.split()[0] for note in notes] == ["network_multiplier", "custom_attributes"]


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
        (
            "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nnum_repeats = 1",
            "`image_dir` is missing",
        ),
        (
            '[[datasets]]\nresolution = 64\nenable_bucket = true\n[[datasets.subsets]]\nimage_dir = "a"',
            "below `min_bucket_reso` 256",
        ),
        (BUCKETS + "min_bucket_reso = 32", "`min_bucket_reso` 32 is below `bucket_reso_steps` 64"),
        (BUCKETS + "bucket_reso_steps = 48", "48 is not a multiple of 64"),
        (
            '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\ncaption_separator = ""',
            "must not be empty",
        ),
        (
            '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\nkeep_tokens = -1',
            "out of range",
        ),
        (
            '[[datasets]]\nresolution = 2048\nenable_bucket = true\n[[datasets.subsets]]\nimage_dir = "a"',
            "above `max_bucket_reso` 1024",
        ),
        ("[genral]\n", "did you mean `general`"),
        ("[[datasets", "dataset config: the file is not valid TOML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_folder_layout(tmp_path: Path) -> None:
    for name in ("5_mychar", "10_a_b c", "7", "3_", "cat", "0_x", "-2_y", "x_5"):
        (tmp_path / "train" / name).mkdir(parents=True)
    args = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        "--resolution=64,96",
    ]
    config, _ = complete(parse("sd", [*args, f"--train_data_dir={tmp_path / 'train'}"], "test"))
    (dataset,) = config.data.datasets
    assert dataset.resolution_wh == (64, 96)
    found = [(s.num_repeats, s.class_tokens) for s in dataset.subsets]
    assert found == [(10, "a_b c"), (3, ""), (5, "mychar"), (7, "")]
    (tmp_path / "reg" / "2_girl").mkdir(parents=True)
    config, _ = complete(
        parse(
            "sd",
            [*args, f"--train_data_dir={tmp_path / 'train'}", f"--reg_data_dir={tmp_path / 'reg'}"],
            "test",
        )
    )
    (reg,) = [s for s in config.data.datasets[0].subsets if s.regularisation]
    assert (reg.num_repeats, reg.class_tokens) == (2, "girl")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.png").touch()
    (tmp_path / "plain" / "2024").touch()
    (plain,) = (
        complete(parse("sd", [*args, f"--train_data_dir={tmp_path / 'plain'}"], "test"))[0]
        .data.datasets[0]
        .subsets
    )
    assert (plain.image_dir, plain.num_repeats) == (tmp_path / "plain", 1)
    with pytest.raises(ConfigError, match="no usable subfolder"):
        complete(parse("sd", [*args, f"--train_data_dir={tmp_path / 'train' / 'cat'}"], "test"))


def layout(
    tmp_path: Path, *names: str, flag: str = "train_data_dir"
) -> tuple[list[tuple[int, str | None]], list[str]]:
    """Return what a folder of files and folders (with / behind) gives.

    It is repeats and classes, and all errors, warnings and notes.
    """
    root = tmp_path / "root"
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    findings = Findings()
    args = parse("sd", ["--resolution=64", f"--{flag}={root}"], "test")
    subsets = [
        subset
        for dataset in build_data(args, FACTS["sd1"], findings, look_into_folders=True).datasets
        for subset in dataset.subsets
    ]
    return [(s.num_repeats, s.class_tokens) for s in subsets], [
        *map(str, findings.errors),
        *map(str, findings.warnings),
        *findings.notes,
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10_zibu", (10, "zibu")),
        (" 10_zibu", (10, "zibu")),
        ("10 _zibu", (10, "zibu")),
        ("+10_zibu", (10, "zibu")),
        ("010_zibu", (10, "zibu")),
        ("\uff11\uff10_zibu", (10, "zibu")),
        ("10_", (10, "")),
        ("10", (10, "")),
        ("10_a_b", (10, "a_b")),
    ],
)
def test_numbers_of_folders_are_read_as_python_reads_them(
    tmp_path: Path, name: str, expected: tuple[int, str]
) -> None:
    assert layout(tmp_path, f"{name}/1.png") == ([expected], [])


@pytest.mark.parametrize(
    "name", ["0_x", "-2_y", "x_5", "1.5_x", "_x", "10-x", "9" * 200 + "x_y", "10\u00b2_x"]
)
def test_other_folders_are_left_out_and_told(tmp_path: Path, name: str) -> None:
    found, (told,) = layout(tmp_path, f"{name}/1.png", "3_zibu/1.png")
    assert found == [(3, "zibu")]
    assert "is not named like 10_mychar and is left out" in told


@pytest.mark.parametrize(
    "name", ["._10_zibu", ".10_zibu", ".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"]
)
def test_folders_of_systems_and_tools_are_passed_over(tmp_path: Path, name: str) -> None:
    assert layout(tmp_path, f"{name}/1.png", "3_zibu/1.png", "Thumbs.db", ".DS_Store") == (
        [(3, "zibu")],
        [],
    )
    assert layout(tmp_path / "3_zibu", f"{name}/1.png", "1.png") == ([(1, None)], [])


@pytest.mark.parametrize(
    ("names", "what", "hint"),
    [
        ((), "the folder is empty", "put images into it, or into subfolders like 10_mychar"),
        ((".DS_Store", "._1.png"), "the folder is empty", "put images into it"),
        (("a.txt", "b.txt"), "the folder holds 2 .txt files", "put images into it"),
        (("photos/1.png", "empty/"), "the folder holds 2 folders", "rename photos to 10_photos"),
        (("empty/",), "the folder holds 1 folder", "put images into it"),
        (
            ("1.heic", "2.HEIC", "a.txt"),
            "no image that can be read, only 2 .heic (1.heic, 2.HEIC)",
            "save them as PNG or JPEG",
        ),
    ],
)
def test_a_folder_without_images_gets_fitting_advice(
    tmp_path: Path, names: tuple[str, ...], what: str, hint: str
) -> None:
    found, told = layout(tmp_path, *names)
    assert not found
    assert what in told[0]
    assert hint in told[0]


def test_images_beside_subfolders_are_told(tmp_path: Path) -> None:
    found, (told,) = layout(tmp_path, "3_zibu/1.png", "a.png", "b.JPG", "c.gif")
    assert found == [(3, "zibu")]
    assert told.endswith(
        "root: only images in its subfolders are taken; 3 images are left out: a.png, b.JPG, c.gif"
    )


@pytest.mark.parametrize("value", ["", "None", ".none", "none", ".none-use-foldername"])
def test_no_caption_suffix_means_the_folders_name(tmp_path: Path, value: str) -> None:
    picture(tmp_path / "10_zibu" / "1.png", (64, 64), caption="a photo of a beach")
    args = parse(
        "sd",
        ["--resolution=64", f"--train_data_dir={tmp_path}", f"--caption_extension={value}"],
        "test",
    )
    findings = Findings()
    (sample,) = scan(build_data(args, FACTS["sd1"], findings, look_into_folders=True), 0, findings)
    assert sample.caption == "zibu"
    assert not findings.errors
    folder = (tmp_path / "10_zibu").as_posix()
    text = f'[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "{folder}"\n'
    (sample,) = scan(
        read(tmp_path, f'{text}class_tokens = "a zibu"\ncaption_extension = "{value}"\n')[0],
        0,
        findings,
    )
    assert sample.caption == "a zibu"
    assert not findings.errors


def test_regularisation_images_keep_their_captions(tmp_path: Path) -> None:
    text = '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\n'
    text += '[[datasets.subsets]]\nimage_dir = "b"\nis_reg = true\n'
    (dataset,) = read(tmp_path, text, "--use_object_template")[0].datasets
    assert [(str(s.image_dir), s.regularisation) for s in dataset.subsets] == [
        ("a", False),
        ("b", True),
    ]
    assert [s.captions.template for s in dataset.subsets] == ["object", None]


def test_every_dataset_is_checked(tmp_path: Path) -> None:
    one = "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'\n"
    two = "[[datasets]]\nresolution = 4\n[[datasets.subsets]]\nimage_dir = 'b'\nkeep_tokens = -1\n"
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
    rules = read(tmp_path, text)[0].datasets[0].subsets[0].captions
    assert (rules.wildcard, rules.keep_separator, rules.secondary_separator) == (True, "|||", ";;;")
    assert (rules.warmup, rules.warmup_min, rules.tag_dropout) == (0.1, 2, 0.3)
    with pytest.raises(ConfigError, match="`caption_dropout_rate` is not for Textual Inversion"):
        read(tmp_path, text + "caption_dropout_rate = 0.1\n")


def test_a_folder_named_twice_is_used_once(tmp_path: Path) -> None:
    folders = ("a", "a/", "./a", "b")
    text = "[[datasets]]\nresolution = 64\n" + "".join(
        f'[[datasets.subsets]]\nimage_dir = "{f}"\n' for f in folders
    )
    data, findings = read(tmp_path, text)
    assert [str(s.image_dir) for s in data.datasets[0].subsets] == ["a", "b"]
    assert sum("is in this dataset already" in problem.what for problem in findings.warnings) == 2
    data, findings = read(tmp_path, text + text)  # in two datasets it may stand for two resolutions
    assert [len(dataset.subsets) for dataset in data.datasets] == [2, 2]


ONE = '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\n'


@pytest.mark.parametrize(
    "line",
    [
        "num_repeats = 2.0",
        'num_repeats = "2"',
        "num_repeats = true",
        "flip_aug = 1",
        "batch_size = 2",
        "prior_loss_weight = 1.0",
        "face_crop_aug_range = [1]",
        "validation_split = 1.5",
        "validation_split = nan",
        'resize_interpolation = "fancy"',
        "face_crop_aug_range = [3.0, 1.0]",
        "token_warmup_step = inf",
        'image_dir = "a\\u0000b"',
        "num_repeats = 1000000",
    ],
)
def test_what_a_subset_refuses(tmp_path: Path, line: str) -> None:
    key = line.partition(" =")[0]
    text = ONE.replace('image_dir = "a"', "") if key == "image_dir" else ONE
    with pytest.raises(ConfigError, match=key):
        read(tmp_path, text + line)


@pytest.mark.parametrize(
    "value", ["512.0", "[512]", '"512,512"', "[512, 512, 512]", "20000", "null"]
)
def test_what_a_resolution_is_not(tmp_path: Path, value: str) -> None:
    text = f'{{"datasets": [{{"resolution": {value}, "subsets": [{{"image_dir": "a"}}]}}]}}'
    with pytest.raises(ConfigError, match="resolution"):
        read(tmp_path, text, suffix=".json")


@pytest.mark.parametrize(
    "line",
    [
        "validation_split = 1",
        "face_crop_aug_range = [1, 3]",
        "token_warmup_step = 1",
        "alpha_mask = true",
    ],
)
def test_whole_numbers_pass_for_numbers(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, ONE + line)[0].datasets


def test_every_level_takes_its_keys(tmp_path: Path) -> None:
    text = """
    [general]
    class_tokens = "cls"
    alpha_mask = true
    validation_split = 0.5
    [[datasets]]
    resolution = [512, 768]
    validation_seed = 7
    bucket_no_upscale = true
    enable_bucket = true
    [[datasets.subsets]]
    image_dir = "a"
    validation_split = 0.25
    color_aug = true
    random_crop = true
    cache_info = true
    resize_interpolation = "box"
    conditioning_data_dir = "masks"
    [[datasets.subsets]]
    image_dir = "b"
    color_aug = false
    """
    (dataset,) = read(tmp_path, text, "--color_aug", "--random_crop")[0].datasets
    assert (dataset.validation_seed, dataset.buckets.no_upscale) == (7, True)
    one, two = dataset.subsets
    assert (one.class_tokens, one.validation_split, one.cache_sizes, one.mask_dir) == (
        "cls",
        0.25,
        True,
        Path("masks"),
    )
    assert (
        one.images.color,
        one.images.random_crop,
        one.images.interpolation,
        one.images.alpha_mask,
    ) == (True, True, "box", True)
    assert (two.validation_split, two.images.color, two.images.random_crop, two.mask_dir) == (
        0.5,
        False,
        True,
        None,
    )
    assert ("validation_split = 0.25", "[[datasets.subsets]] 1") in one.settings
    assert ("random_crop = true", "command line") in two.settings


@pytest.mark.parametrize("flag", ["--cache_latents", "--cache_latents_to_disk"])
@pytest.mark.parametrize(
    "line", ["color_aug = true", "random_crop = true", "random_rotate_max_angle = 5"]
)
def test_cached_latents_cannot_vary(tmp_path: Path, flag: str, line: str) -> None:
    with pytest.raises(ConfigError, match=f"`{line.split(maxsplit=1)[0]}` varies the pixels"):
        read(tmp_path, ONE + line, flag)
    assert (
        "face_crop_aug_range has no effect"
        in read(tmp_path, ONE, flag, "--face_crop_aug_range=2.0,4.0")[1].notes[0]
    )


def test_metadata_files_and_folders_do_not_mix(tmp_path: Path) -> None:
    metadata = '[[datasets.subsets]]\nmetadata_file = "m.json"\n'
    with pytest.raises(ConfigError, match="subset 1 has none"):
        read(tmp_path, ONE + metadata)
    data, _ = read(tmp_path, ONE + "[[datasets]]\nresolution = 64\n" + metadata)
    assert [s.metadata_file for d in data.datasets for s in d.subsets] == [None, Path("m.json")]


def test_a_subset_without_repeats_is_left_out(tmp_path: Path) -> None:
    data, findings = read(tmp_path, ONE + "num_repeats = 0")
    assert data.datasets[0].subsets == ()
    assert "num_repeats is 0" in findings.warnings[0].what


@pytest.mark.parametrize(("resolution", "bucketed", "unit"), [(500, "true", 64), (500, "false", 8)])
def test_a_resolution_off_the_grid_is_warned_of(
    tmp_path: Path, resolution: int, bucketed: str, unit: int
) -> None:
    text = ONE.replace("resolution = 64", f"resolution = {resolution}\nenable_bucket = {bucketed}")
    assert f"500x500 is not a multiple of {unit}" in read(tmp_path, text)[1].warnings[0].what


def test_without_upscaling_the_bucket_limits_do_not_count(tmp_path: Path) -> None:
    text = ONE.replace(
        "resolution = 64", "resolution = 2048\nenable_bucket = true\nbucket_no_upscale = true"
    )
    assert read(tmp_path, text)[0].datasets[0].resolution_wh == (2048, 2048)


def test_sdxl_buckets_may_be_multiples_of_32(tmp_path: Path) -> None:
    file = tmp_path / "dataset.toml"
    file.write_text(
        ONE.replace(
            "resolution = 64", "resolution = 1024\nenable_bucket = true\nbucket_reso_steps = 32"
        )
    )
    args = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        f"--dataset_config={file}",
    ]
    assert complete(parse("sdxl", args, "test"))[0].data.datasets[0].buckets.step == 32
    with pytest.raises(ConfigError, match="not a multiple of 64"):
        complete(parse("sd", args, "test"))


def test_config_in_json_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    text = json.dumps(
        {"datasets": [{"resolution": 64, "subsets": [{"image_dir": "été"}]}]}, ensure_ascii=False
    )
    assert read(tmp_path, text, suffix=".json")[0].datasets[0].subsets[0].image_dir == Path("été")


def test_flags_that_name_folders_yield_to_the_file(tmp_path: Path) -> None:
    notes = read(tmp_path, ONE, "--train_data_dir=x", "--in_json=y")[1].notes
    assert notes == [
        "--train_data_dir, --in_json has no effect: --dataset_config names the folders"
    ]


def test_metadata_on_the_command_line(tmp_path: Path) -> None:
    args = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        "--resolution=64",
        "--in_json=m.jsonl",
    ]
    (subset,) = complete(parse("sd", args, "test"))[0].data.datasets[0].subsets
    assert (subset.metadata_file, subset.image_dir) == (Path("m.jsonl"), None)
    (subset,) = (
        complete(parse("sd", [*args, "--train_data_dir=imgs"], "test"))[0].data.datasets[0].subsets
    )
    assert subset.image_dir == Path("imgs")


# What OneTrainer offers too

VARIED = """
[[datasets]]
resolution = 64
caption_separator = ";"
[[datasets.subsets]]
image_dir = "a"
samples_per_epoch = 7
loss_weight = 0.5
prior_prediction = true
caption_tag_dropout_rate = 0.5
tag_dropout_mode = "full"
tag_dropout_special_tags = "red hat; blue.*"
tag_dropout_special_tags_regex = true
[[datasets.subsets]]
image_dir = "b"
caption_tag_dropout_rate = 0.5
tag_dropout_special_tags = ["a;b", "c"]
random_rotate_max_angle = 15
random_hue_max_strength = 0.1
"""


def test_variations_and_weights_are_read_for_each_subset(tmp_path: Path) -> None:
    data, _ = read(
        tmp_path, VARIED, "--random_contrast_max_strength=0.2", "--tag_dropout_mode=random_weighted"
    )
    one, two = data.datasets[0].subsets
    assert (one.samples_per_epoch, one.loss_weight, one.prior_prediction) == (7, 0.5, True)
    assert one.captions.special_tags == ("red hat", "blue.*")
    assert one.captions.special_tags_regex
    assert (one.captions.tag_dropout_mode, two.captions.tag_dropout_mode) == (
        "full",
        "random_weighted",
    )
    assert two.captions.special_tags == ("a;b", "c")
    assert (two.images.rotate, two.images.hue, two.images.contrast) == (15, 0.1, 0.2)
    assert (two.samples_per_epoch, two.loss_weight, two.prior_prediction) == (None, 1, False)


def test_all_that_is_wrong_with_them_is_told_at_once(tmp_path: Path) -> None:
    text = """
[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "a"
caption_tag_dropout_rate = 0.5
tag_dropout_mode = "some"
tag_dropout_special_tags = ["(a"]
tag_dropout_special_tags_mode = "greylist"
tag_dropout_special_tags_regex = true
random_rotate_max_angle = 200
random_hue_max_strength = 2
samples_per_epoch = 0
"""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    told = str(caught.value)
    for part in (
        "`tag_dropout_mode` 'some' is not known",
        "`tag_dropout_special_tags_mode` 'greylist' is not known",
        "'(a' is not a regular expression",
        "`random_rotate_max_angle` 200 is out of range",
        "`random_hue_max_strength` 2 is out of range",
        "`samples_per_epoch` 0 is out of range",
    ):
        assert part in told


def test_settings_that_do_nothing_are_told(tmp_path: Path) -> None:
    subset = '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\n'
    for lines, note in (
        ('tag_dropout_special_tags = "a"', "tag_dropout_* has no effect without caption_tag_dropout_rate"),
        (
            "caption_tag_dropout_rate = 0.5\ntag_dropout_special_tags_regex = true",
            "tag_dropout_special_tags_* has no effect without tag_dropout_special_tags",
        ),
        ("samples_per_epoch = 2\nnum_repeats = 3", "num_repeats has no effect with samples_per_epoch"),
        ("caps_randomize_probability = 0.5", "caps_randomize_probability has no effect"),
    ):  # fmt: skip
        _, findings = read(tmp_path, subset + lines)
        assert any(text.startswith(note) for text in findings.notes), findings.notes
    _, findings = read(tmp_path, f"{subset}loss_weight = 0")
    assert [problem.what for problem in findings.warnings] == [
        "`loss_weight` is 0: the subset teaches nothing"
    ]


def test_onetrainers_names_are_translated(tmp_path: Path) -> None:
    text = VARIED.replace("samples_per_epoch = 7", 'balancing_strategy = "SAMPLES"')
    with pytest.raises(ConfigError, match="it is called `samples_per_epoch` here"):
        read(tmp_path, text)
