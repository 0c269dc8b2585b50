"""The flag table against the frozen list of sd-scripts' flags."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coinage.cli.parse import build_parser, parse, write_config
from coinage.errors import ConfigError
from coinage.settings.discover import complete
from coinage.settings.flags import FLAGS, OWN_KERNELS, flags_of
from coinage.settings.idle_flags import notes
from coinage.settings.values import ratio

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "flags.json").read_text(encoding="utf-8")
)
NO_METADATA = "--metadata_*: .pt files hold no metadata; use --save_model_as safetensors"
ROOT = Path(__file__).parents[2]


def test_table_is_the_golden_list() -> None:
    table = {
        f.name: {
            "kind": f.kind,
            "choices": list(f.choices),
            "default": f.default,
            "scripts": ["sdxl"] if f.sdxl_only else ["sd", "sdxl"],
        }
        for f in FLAGS
        if not f.own
    }
    assert table == GOLDEN
    assert len(table) == 173


@pytest.mark.parametrize("script", ["sd", "sdxl"])
def test_every_flag_is_parsed_with_its_type_and_default(script: str) -> None:
    parser = build_parser(script, "test")
    defaults = vars(parser.parse_args([]))
    assert defaults == {f.dest: f.default for f in flags_of(script)}
    samples = {
        "int": ("7", 7),
        "float": ("0.5", 0.5),
        "ratio": ("10%", 0.1),
        "str": ("x", "x"),
        "path": ("a/b", Path("a/b")),
    }
    for flag in flags_of(script):
        if flag.kind == "switch":
            words, value = [flag.name], True
        elif flag.kind == "list":
            words, value = [flag.name, "a=1", "b=2"], ["a=1", "b=2"]
        else:
            text, value = samples[flag.kind]
            if flag.choices:
                text, value = str(flag.choices[-1]), flag.choices[-1]
            words = [f"{flag.name}={text}"]
        # The file is not there
        found = (
            parser.parse_args(words)
            if flag.name == "--config_file"
            else parse(script, words, "test")
        )
        assert getattr(found, flag.dest) == value, flag.name


def test_ratio_reads_counts_fractions_and_percentages() -> None:
    assert [ratio(x) for x in ("100", "0.1", "10%", "0")] == [100, 0.1, 0.1, 0]
    for text in ("1.5", "100%", "150%"):
        with pytest.raises(ValueError, match="whole number of steps"):
            ratio(text)


def test_help_is_fast_and_imports_no_torch() -> None:
    code = (
        "import sys, coinage.cli.train as k; k.train_command('sd', "
        "['--token_string', 'x']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, ROOT / "train_textual_inversion.py", "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        after = os.times()
        seconds.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        assert done.returncode == 0
        assert "--token_string" in done.stdout
    assert min(seconds) < 0.6, "the budget is 0.3 s on an idle machine"


def test_unknown_flag_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown flag --learning_rat0[\s\S]*--learning_rate"):
        parse("sd", ["--learning_rat0=1"], "test")


def test_unique_prefixes_are_accepted_and_the_last_value_wins() -> None:
    args = parse("sd", ["--token_s=a", "--token_string=b"], "test")
    assert args.token_string == "b"


def test_config_file_yields_to_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        "[any]\nlearning_rate = 1e-3\nseed = 5\ncache_latents = true\n"
        'optimizer_args = ["eps=1e-6"]\nresolution = [64, 96]\n'
    )
    args = parse("sd", [f"--config_file={tmp_path / 'settings'}", "--seed=7"], "test")
    assert (args.learning_rate, args.seed, args.cache_latents) == (1e-3, 7, True)
    assert (args.optimizer_args, args.resolution) == (["eps=1e-6"], "64,96")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('loss_type = "foo"', '`loss_type = "foo"` is not one of l1, l2, huber, smooth_l1'),
        ('learning_rate = "abc"', "is not a number"),
        ("cache_latents = 2", "must be true or false"),
        ("= 3", "config_file"),
    ],
)
def test_config_file_is_checked(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse("sd", [f"--config_file={file}"], "test")


def test_output_config_writes_given_values_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "saved.toml"
    argv = [
        "--token_string=zibu",
        "--huggingface_token=s3cret",
        "--seed=3",
        f"--config_file={file}",
        "--output_config",
    ]
    write_config(parse("sd", argv, "test"))
    assert "s3cret" not in file.read_text()
    again = parse("sd", [f"--config_file={file}"], "test")
    assert (again.token_string, again.seed) == ("zibu", 3)
    with pytest.raises(ConfigError, match="the file already exists"):
        write_config(parse("sd", argv, "test"))


def test_flags_without_effect_are_named() -> None:
    argv = ["--log_config", "--seed=1", "--huber_c=0.2", "--xformers", "--metadata_author=me"]
    args = parse("sd", argv, "test")
    idle = [
        "--huber_c has no effect without --loss_type huber or smooth_l1",
        "--log_config has no effect without --logging_dir or --log_with",
    ]
    assert sorted(notes(args)) == [*idle, NO_METADATA, f"--xformers {OWN_KERNELS}"]
    no_previews = ["--show_word", "--sample_every_n_steps=0"]
    assert notes(parse("sd", no_previews, "test")) == ["--show_word has no effect without previews"]
    assert notes(parse("sd", no_previews[:1], "test")) == [], "there are automatic ones"
    assert not any("show_word" in note for note in notes(parse("coinage", no_previews[1:], "test")))


def test_all_missing_inputs_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        complete(
            parse(
                "sd", ["--lr_scheduler=cosin", "--min_timestep=900", "--max_timestep=100"], "test"
            )
        )
    text = str(caught.value)
    for part in (
        "--pretrained_model",
        "--token_string",
        "--output_dir",
        "no dataset",
        "cosin",
        "--min_timestep 900 must be below --max_timestep 100",
    ):
        assert part in text


def test_a_thumbnail_becomes_a_data_url_and_its_path_never_reaches_the_file(tmp_path: Path) -> None:
    (tmp_path / "1_x").mkdir()
    (tmp_path / "small.png").write_bytes(b"\x89PNG")
    (tmp_path / "large.png").write_bytes(bytes(1_000_001))
    argv = [
        "--pretrained_model_name_or_path=m",
        "--token_string=t",
        "--output_dir=o",
        "--resolution=64",
        f"--train_data_dir={tmp_path}",
    ]

    def thumbnail(given: str) -> tuple[str | None, int]:
        config, findings = complete(
            parse("sd", [*argv, f"--metadata_thumbnail={given}", "--metadata_author=me"], "test")
        )
        fields = dict(config.save.metadata)
        assert fields.pop("author") == "me"
        return fields.pop("thumbnail", None), len(findings.warnings)

    assert thumbnail(f"{tmp_path / 'small.png'}") == ("data:image/png;base64,iVBORw==", 0)
    assert thumbnail("data:image/png;base64,AA==") == ("data:image/png;base64,AA==", 0)
    for wrong in ("none.png", "large.png", "1_x"):
        assert thumbnail(f"{tmp_path / wrong}") == (None, 1)


def test_a_warm_up_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="--lr_warmup_steps"):
        complete(parse("sd", ["--lr_scheduler=linear", "--lr_warmup_steps=-5"], "test"))
