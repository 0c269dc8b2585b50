"""Settings files as other tools write them, the wrong file, paths, and names of other tools' flags."""

import argparse
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.flag_page import PAGES

from coinage.cli.parse import build_parser, parse
from coinage.cli.train import train_command
from coinage.cli.words import build_words
from coinage.errors import ConfigError
from coinage.settings.discover import complete
from coinage.settings.flags import FLAGS, Flag
from coinage.system.text_files import SLASHES
from coinage.text.prompts import Prompt, read_prompts
from tests.helpers import captured, flags

# The keys that the textual inversion tab of a widespread GUI writes, with values of our own.
GUI = """
bucket_no_upscale = true
cache_latents = true
caption_extension = ".txt"
dynamo_backend = "no"
epoch = 2
huber_scale = 1
learning_rate = 0.005
log_with = ""
lr_scheduler_args = []
lr_scheduler_power = 1
max_timestep = 1000
max_token_length = 75
max_train_steps = 6
noise_offset_type = "Original"
optimizer_args = []
optimizer_type = "AdamW8bit"
output_name = "zibu"
resolution = "64,64"
save_precision = "fp16"
seed = 1234
token_string = "zibu"
vae = ""
wandb_run_name = "zibu"
xformers = true
"""
SECTIONED = """
[general_args.args]
max_train_epochs = 3
vae = ""
sdxl = true
[general_args.dataset_args]
resolution = 64
[network_args.args]
network_dim = 32
unet_lr = 1e-4
[network_args.args.network_args]
conv_dim = 8
[optimizer_args.args]
optimizer_type = "AdamW"
learning_rate = 1e-3
[optimizer_args.args.optimizer_args]
weight_decay = 0.1
betas = [0.9, 0.99]
[saving_args]
save_model_as = "safetensors"
"""


def read(folder: Path, text: str, *more: str, script: str = "sd") -> argparse.Namespace:
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return parse(script, [f"--config_file={file}", *more], "test")


def problems_of(folder: Path, text: str, *more: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, *more)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("script", ["sd", "sdxl", "coinage"])
def test_a_guis_file_is_taken_and_idle_keys_are_one_note(tmp_path: Path, script: str) -> None:
    args = read(tmp_path, GUI, script=script)
    assert (args.learning_rate, args.max_train_steps, args.resolution, args.seed) == (
        0.005,
        6,
        "64,64",
        1234,
    )
    assert (args.dynamo_backend, args.max_token_length, args.optimizer_args, args.vae) == (
        "inductor",
        None,
        None,
        None,
    )
    assert (args.xformers, args.save_precision, args.lr_scheduler_power) == (True, "fp16", 1.0)
    (note,) = args.remarks.notes
    assert note.endswith(
        "settings.toml: 2 keys are not flags of this script and have no effect: epoch, noise_offset_type"
    )
    assert not args.remarks.warnings


def test_headings_of_any_name_and_depth(tmp_path: Path) -> None:
    args = read(tmp_path, SECTIONED)
    assert (args.max_train_epochs, args.resolution, args.learning_rate, args.save_model_as) == (
        3,
        "64",
        1e-3,
        "safetensors",
    )
    assert args.optimizer_args == ["weight_decay=0.1", "betas=[0.9, 0.99]"]
    assert "4 keys" in args.remarks.notes[0]
    deep = "a" + ".a" * 5000 + " = 1\nseed = 3"
    assert read(tmp_path, deep).seed == 3


TAKEN: list[tuple[str, object]] = [
    ('seed = "7"', 7),
    ("seed = 7.0", 7),
    ('seed = ""', None),
    ('learning_rate = "1e-3"', 1e-3),
    ("learning_rate = 1", 1.0),
    ("max_grad_norm = 0", 0.0),
    ("token_string = 123", "123"),
    ("resolution = 512", "512"),
    ("resolution = [64, 96]", "64,96"),
    ("face_crop_aug_range = [2.0, 4.0]", "2,4"),
    ('metadata_tags = ["a", "b"]', "a,b"),
    ("metadata_tags = []", None),
    ("metadata_is_negative_embedding = true", "true"),
    ("metadata_is_negative_embedding = false", "false"),
    ("vae = false", None),
    ('vae = ["a.safetensors"]', "a.safetensors"),
    ('cache_latents = "true"', True),
    ('cache_latents = "False"', False),
    ("cache_latents = 1", True),
    ("cache_latents = 0", False),
    ('cache_latents = ""', False),
    ('optimizer_args = "--help"', ["--help"]),
    ('optimizer_args = ["--dry_run", "a=1"]', ["--dry_run", "a=1"]),
    ("optimizer_args = {weight_decay = 0.1}", ["weight_decay=0.1"]),
    ('output_name = "--dry_run"', "--dry_run"),
    ('dynamo_backend = "NO"', "inductor"),
    ('dynamo_backend = "INDUCTOR"', "inductor"),
    ('dynamo_backend = "tensorrt"', "tensorrt"),
    ("max_token_length = 75", None),
    ('max_token_length = "150"', 150),
    ("max_token_length = 225.0", 225),
    ('save_model_as = ".SafeTensors"', "safetensors"),
    ('save_precision = "fp32"', "float"),
    ('log_with = "None"', None),
    ('sample_sampler = "DDPM"', "ddpm"),
    ('console_log_level = "info"', "INFO"),
    ('zero_stage = "2"', 2),
    ("lr_warmup_steps = 0.1", 0.1),
    ("lr_warmup_steps = 100.0", 100),
    ('lr_warmup_steps = "10%"', 0.1),
    ('dataset_config = ""', None),
    ('init_word = ""', None),
]


@pytest.mark.parametrize(("line", "value"), TAKEN)
def test_values_that_are_taken(tmp_path: Path, line: str, value: object) -> None:
    args = read(tmp_path, line)
    found = getattr(args, line.split(" ", maxsplit=1)[0])
    assert found == value
    assert type(found) is type(value)
    assert not args.dry_run


REFUSED = [
    ("cache_latents = 2", "must be true or false"),
    ('cache_latents = "maybe"', "must be true or false"),
    ("seed = 1.5", "is not a whole number"),
    ("seed = true", "is not a whole number"),
    ("seed = [1, 2]", "is not a whole number"),
    (f"seed = 1{'0' * 400}.0", "is not a whole number"),
    (f"learning_rate = 1{'0' * 400}", "is not a number"),
    ('learning_rate = "fast"', "is not a number"),
    ('lr_warmup_steps = "100%"', "is neither a whole number of steps nor a fraction"),
    ("lr_warmup_steps = 1.5", "is neither a whole number"),
    ("token_string = true", "is not text"),
    ("token_string = 2024-01-01", "is not text"),
    ("optimizer_args = [{a = 1}]", "is not text"),
    ('vae = ["a", "b"]', "is not one path"),
    ("loss_type = true", "is not one of l1"),
    ('mixed_precision = "fp8"', "is not one of no, fp16, bf16"),
    ("max_token_length = 77", "is not one of 150, 225"),
    ("words = 1", "`words` is reserved for the tables of words"),
]


@pytest.mark.parametrize(("line", "what"), REFUSED)
def test_values_that_are_refused(tmp_path: Path, line: str, what: str) -> None:
    (problem,) = problems_of(tmp_path, line)
    assert what in problem
    assert "settings.toml" in problem


def test_all_problems_of_a_file_and_a_command_come_together(tmp_path: Path) -> None:
    text = (
        'learning_rat = 1\nseed = "x"\nloss_type = "foo"\nvae = "a\\tb"\n'
        'epoch = 2\n[[words]]\nhuber_c = "y"\nno_such = 1\n'
    )
    found = "\n".join(problems_of(tmp_path, text, "--no_such=1", "--clip_skip=z"))
    for part in (
        "`learning_rat` is not a flag",
        "`seed",
        "`loss_type",
        "[[words]] 1",
        "`huber_c",
        "unknown flag --no_such",
        "--clip_skip z",
    ):
        assert part in found
    assert "epoch" not in found


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, 'huggingface_token = [{a = "s3cret"}]')
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("learning_rat = 1", "did you mean `learning_rate`?"),
        ("learning_rte = 1", "did you mean `learning_rate`?"),
        ('output_dri = "x"', "did you mean `output_dir`?"),
        ('weigts = "x.pt"', "did you mean `weights`?"),  # so a GUI writes it
        ("max_train_epoch = 3", "did you mean `max_train_epochs`?"),
        ("batch_size = 3", "it is called `train_batch_size` here"),
        ('placeholder_token = "x"', "it is called `token_string` here"),
    ],
)
def test_what_is_almost_a_flag_is_warned_of(tmp_path: Path, line: str, hint: str) -> None:
    args = read(tmp_path, line)
    (warning,) = args.remarks.warnings
    assert warning.hint == hint
    with pytest.raises(ConfigError) as caught:  # much else is missing, and this may be why
        build_words(args)
    assert warning in caught.value.problems


IDLE = (
    "epoch",
    "noise_offset_type",
    "learning_rate_te1",
    "network_dim",
    "unet_lr",
    "sample_dir",
    "save_as_bool",
    "v1",
    "huggingface_tokn",
)


@pytest.mark.parametrize("name", IDLE)
def test_what_is_like_no_flag_is_only_noted(tmp_path: Path, name: str) -> None:
    args = read(tmp_path, f"{name} = 1")
    assert args.remarks.warnings == []
    assert args.remarks.notes[0].endswith(
        f"1 key is not a flag of this script and has no effect: {name}"
    )


def test_another_name_beside_our_own_is_only_noted(tmp_path: Path) -> None:
    assert not read(tmp_path, "batch_size = 3\ntrain_batch_size = 2").remarks.warnings


def test_flags_of_the_other_script_are_noted(tmp_path: Path) -> None:
    line = "cache_text_encoder_outputs = true"
    assert "cache_text_encoder_outputs" in read(tmp_path, line).remarks.notes[0]
    assert read(tmp_path, line, script="sdxl").cache_text_encoder_outputs


def test_tables_of_words_are_read_alike(tmp_path: Path) -> None:
    text = (
        'seed = 1\n[[words]]\ntoken_string = 5\ndynamo = 1\nseed = "2"\n'
        'output_name = "a.pt"\n[[words]]\ntoken_string = "b"\nvae_x = 1\n'
    )
    one, two = (word.values for word in read(tmp_path, text).words)
    assert (one.token_string, one.seed, one.output_name, two.seed) == ("5", 2, "a", 1)
    assert any("dynamo" in note for note in one.remarks.notes)
    (problem,) = problems_of(tmp_path, "[[words]]\nmixed_precision = 'no'")
    assert "`mixed_precision` is shared by all words" in problem


# Which file it is, and what is told when it is given as --config_file and as --dataset_config.
SUBSETS = "[[subsets]]\nimage_dir = 'a'\n"
DATASET = "[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = 'a'\n"
YAML = "compute_environment: LOCAL_MACHINE\nnum_processes: 1\n"
METADATA = json.dumps({"a": {"caption": "x"}})
WRONG_SETTINGS = {
    "a dataset": ("d.toml", DATASET, "this is a dataset file"),
    "a dataset in UTF-16": ("d.toml", DATASET.encode("utf-16"), "this is a dataset file"),
    "folders in settings": (
        "d.toml",
        "[general_args.args]\nseed = 1\n" + SUBSETS,
        "[[subsets]] is not read",
    ),
    "folders beside settings": ("d.toml", "seed = 1\n" + DATASET, "[[datasets]] is not read"),
    "a GUI's JSON": ("g.json", '{"seed": 1}', "the file is JSON"),
    "a dataset in JSON": ("d.json", '{"datasets": []}', "this is a dataset file"),
    "metadata": ("m.json", METADATA, "this is a metadata file"),
    "JSON named as TOML": ("g.toml", '{"seed": 1}', "the file is JSON"),
    "TOML named as JSON": ("g.json", "seed = 1", "rename it to g.toml"),
    "accelerate's YAML": ("a.yaml", YAML, "these are the settings of accelerate"),
    "other YAML": ("a.yml", "seed: 1\n", "the file is YAML"),
    "nothing": ("x.json", None, "--config_file: file not found"),
    "a backslash": ("s.toml", r'vae = "C:\Users\me"', SLASHES),
    "a tab of a backslash": ("s.toml", r'vae = "D:\train"', SLASHES),
    "nesting": ("s.toml", "a = " + "[" * 100_000, "nested too deeply"),
    "a long number": ("s.toml", "seed = " + "1" * 5000, "too many digits"),
    "ANSI": ("s.toml", 'vae = "é"'.encode("cp1252"), "not text in UTF-8"),
}
WRONG_DATASETS = {
    "settings": ("s.toml", GUI, "this is a file of settings"),
    "settings in sections": ("s.toml", "[a]\nlearning_rate = 1\n", "this is a file of settings"),
    "settings beside datasets": (
        "s.toml",
        "seed = 1\nlearning_rate = 1\n" + DATASET,
        "seed, learning_rate: not a setting of a dataset",
    ),
    "metadata": ("m.json", METADATA, "this is a metadata file"),
    "subsets alone": ("d.toml", SUBSETS, "[[subsets]] stands outside of a dataset"),
    "a plain key": ("d.toml", "shuffle_caption = true\n" + DATASET, "put it in [general]"),
    "a table": ("d.toml", DATASET + "[extra]\n", "unknown table `extra`"),
    "TOML named as JSON": ("d.json", DATASET, "rename it to d.toml"),
    "JSON named as TOML": ("d.toml", "{}", "rename it to d.json"),
    "another model's key": (
        "d.toml",
        DATASET.replace("resolution", 'system_prompt = "x"\nresolution'),
        "it is for other models",
    ),
    "another tool's key": (
        "d.toml",
        DATASET.replace("image_dir", "image_directory"),
        "it is called `image_dir` here",
    ),
    "a number in quotes": ("d.toml", DATASET + 'num_repeats = "10"', "write num_repeats = 10"),
    "a size in quotes": ("d.toml", DATASET.replace("64", '"64,96"'), "write resolution = [64, 96]"),
    "a backslash": ("d.toml", DATASET.replace("'a'", r'"C:\Users\me"'), SLASHES),
    "a tab of a backslash": ("d.toml", DATASET.replace("'a'", r'"D:\train\new"'), SLASHES),
    "a tab in [general]": (
        "d.toml",
        '[general]\nconditioning_data_dir = "D:\\train"\n' + DATASET,
        SLASHES,
    ),
    "nesting": ("d.json", "[" * 100_000, "nested too deeply"),
    "a device": ("/dev/zero", None, "must be a .toml or .json file"),
    "a long name": ("x" * 300 + ".toml", None, "the path is too long"),
}


def what_is_told(folder: Path, flag: str, name: str, content: str | bytes | None) -> str:
    file = folder / name
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    argv = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        "--resolution=64",
    ]
    with pytest.raises(ConfigError) as caught:
        complete(parse("sd", [*argv, f"--{flag}={file}"], "test"))
    return str(caught.value)


@pytest.mark.parametrize("kind", WRONG_SETTINGS)
def test_what_is_no_settings_file(tmp_path: Path, kind: str) -> None:
    name, content, told = WRONG_SETTINGS[kind]
    text = what_is_told(tmp_path, "config_file", name, content)
    assert told in text
    assert "x.json.toml" not in text


@pytest.mark.parametrize("kind", WRONG_DATASETS)
def test_what_is_no_dataset_file(tmp_path: Path, kind: str) -> None:
    name, content, told = WRONG_DATASETS[kind]
    text = what_is_told(tmp_path, "dataset_config", name, content)
    assert told in text
    assert "unknown table" not in text or kind == "a table"


def test_a_utf16_dataset_is_read(tmp_path: Path) -> None:
    file = tmp_path / "d.toml"
    file.write_bytes(DATASET.encode("utf-16"))
    argv = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        f"--dataset_config={file}",
    ]
    assert complete(parse("sd", argv, "test"))[0].data.datasets[0].subsets[0].image_dir == Path("a")


def test_folders_in_a_settings_file_are_warned_of_where_a_dataset_is_given(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, "seed = 1\n" + SUBSETS, "--train_data_dir=x").remarks.warnings
    assert "[[subsets]] is not read" in warning.what


READERS: list[Callable[[str], list[str]]] = [
    lambda path: [f"--log_tracker_config={path}", "--logging_dir=logs"],
    lambda path: [f"--sample_prompts={path}", "--sample_at_first"],
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "file not found"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        (r'a = "C:\Users"', SLASHES),
        ("é".encode("cp1252"), "not text in UTF-8"),
    ],
)
def test_other_files_that_flags_name(
    moon_dataset: Path,
    tmp_path: Path,
    reader: Callable[[str], list[str]],
    content: str | bytes | None,
    told: str,
) -> None:
    file = tmp_path / "x.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = captured(
        lambda: train_command(
            "sd", flags(moon_dataset, tmp_path / "out", *reader(str(file)), "--dry_run")
        )
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Errno" not in done.stderr
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize(
    ("name", "text"), [("p.txt", ""), ("p.txt", "# none\n\n"), ("p.json", "[]")]
)
def test_a_prompt_file_without_prompts_is_warned_of(
    moon_dataset: Path, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    more = [f"--sample_prompts={tmp_path / name}", "--sample_every_n_steps=1", "--dry_run"]
    done = captured(lambda: train_command("sd", flags(moon_dataset, tmp_path / "out", *more)))
    assert done.returncode == 0, done.stderr
    assert (
        "warning: --sample_prompts: the file holds no prompt, so no previews are drawn"
        in done.stderr
    )


@pytest.mark.parametrize("name", ["gone.txt", "gone.toml", "."])
def test_a_prompt_file_that_nobody_reads_need_not_be_there(
    moon_dataset: Path, tmp_path: Path, name: str
) -> None:
    given = flags(
        moon_dataset, tmp_path / "out", f"--sample_prompts={tmp_path / name}", "--dry_run"
    )
    done = captured(lambda: train_command("sd", given))
    assert done.returncode == 0, done.stderr
    assert "note: --sample_prompts draws nothing" in done.stderr
    assert captured(lambda: train_command("sd", [*given, "--sample_at_first"])).returncode == 2


def test_prompts_in_utf16_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("a zibu --s 3\n".encode("utf-16"))
    assert read_prompts(tmp_path / "p.txt", "ddim") == [Prompt(text="a zibu", steps=3)]


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.path], ids=lambda flag: flag.dest)
def test_paths_begin_at_home_and_may_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: Flag
) -> None:
    name = flag.dest
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    if name == "config_file":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "s.toml").write_text("seed = 5")
        assert parse("sd", ["--config_file=~/s"], "test").seed == 5
        assert parse("sd", ["--config_file="], "test").config_file is None
        return
    assert str(getattr(parse("sd", [f"--{name}=~/a/b"], "test"), name)) == str(
        tmp_path / "home" / "a" / "b"
    )
    assert str(getattr(read(tmp_path, f'{name} = "~/a/b"'), name)) == str(
        tmp_path / "home" / "a" / "b"
    )
    assert getattr(parse("sd", [f"--{name}="], "test"), name) is None
    assert getattr(read(tmp_path, f'{name} = "x"', f"--{name}="), name) is None
    with pytest.raises(ConfigError, match=re.escape(SLASHES)):
        parse("sd", [f"--{name}=D:\train"], "test")
    (tmp_path / "~").mkdir()
    assert str(getattr(parse("sd", [f"--{name}=~/a"], "test"), name)) == "~/a"


def test_folders_of_a_dataset_file_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "d.toml"
    file.write_text(DATASET.replace("'a'", "'~/pictures'") + "conditioning_data_dir = '~/masks'\n")
    argv = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        f"--dataset_config={file}",
    ]
    (subset,) = complete(parse("sd", argv, "test"))[0].data.datasets[0].subsets
    assert (subset.image_dir, subset.mask_dir) == (tmp_path / "pictures", tmp_path / "masks")


def test_a_path_that_is_there_may_hold_a_tab(tmp_path: Path) -> None:
    (tmp_path / "a\tb").mkdir()
    assert parse("sd", [f"--output_dir={tmp_path}/a\tb"], "test").output_dir.endswith("a\tb")


@pytest.mark.parametrize(
    "suffix", [".safetensors", ".pt", ".ckpt", ".bin", ".SafeTensors", ".pt.safetensors"]
)
def test_a_suffix_of_the_output_name_is_taken_off(tmp_path: Path, suffix: str) -> None:
    for args in (
        parse("sd", [f"--output_name=zibu{suffix}"], "test"),
        read(tmp_path, f'output_name = "zibu{suffix}"'),
    ):
        assert args.output_name == "zibu"
        assert args.remarks.notes == [
            f"--output_name zibu{suffix}: the file is called zibu, and --save_model_as gives it its suffix"
        ]
    assert parse("sd", ["--output_name=zibu.v2"], "test").output_name == "zibu.v2"
    assert parse("sd", ["--output_name=.pt"], "test").output_name == ".pt"


def test_defaults_of_zero_are_shown() -> None:
    text = build_parser("sd", "test").format_help()
    for flag in FLAGS:
        zero = flag.default == 0 and flag.default is not False
        assert flag.shown_default == (
            "" if flag.default in {None, ""} or flag.default is False else str(flag.default)
        )
        if zero:
            assert all(f"`{flag.default}`" in page.row(flag) for page in PAGES)
            assert re.search(rf"{flag.name} [\s\S]*?Default:\s+{flag.default}\.", text)


def test_a_file_with_a_slip_trains_and_says_so(moon_dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('learning_rat = 1\noutput_name = "a.pt"\nepoch = 1\n')
    argv = flags(moon_dataset, tmp_path / "out", f"--config_file={file}", "--dry_run")
    done = captured(lambda: train_command("sd", argv))
    assert done.returncode == 0, done.stderr
    assert "warning: `learning_rat` is not a flag and has no effect" in done.stderr
    assert "note: --output_name a.pt: the file is called a" in done.stderr
    assert f"output  {os.path.join(tmp_path, 'out', 'a.safetensors')}" in done.stderr  # noqa: PTH118
