"""Unknown flags: those of other tools, of other trainings, and slips of the pen."""

import pytest

from coinage.cli.parse import SECRETS, build_parser, parse
from coinage.errors import ConfigError, did_you_mean, is_slip
from coinage.settings.flags import flags_of
from coinage.settings.foreign import CALLED, LORA, WHOLE_MODEL, WHY


def hints_of(*argv: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse("sd", list(argv), "test")
    return [(problem.what, problem.hint) for problem in caught.value.problems]


@pytest.mark.parametrize("name", [*CALLED, *LORA, *WHOLE_MODEL, *WHY])
def test_names_of_other_tools_are_known(name: str) -> None:
    own = [f"--{flag}" for flag in CALLED.get(name, ())]
    assert all(flag in build_parser("sd", "test").format_help() for flag in own)
    if any(flag.startswith(f"--{name}") for flag in own) and len(own) == 1:
        return  # short for our own, and taken as that
    ((what, hint),) = hints_of(f"--{name}", "value")
    assert what == f"unknown flag --{name}"
    assert all(f"`{flag}`" in hint for flag in own)
    assert "see test" not in hint


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["--network_module", "networks.lora"], "it is for LoRA training"),
        (["--sdxl"], "use sdxl_train_textual_inversion.py"),
        (["--cache_text_encoder_outputs"], "it is only for SDXL"),
        (["--lerning_rate", "1", "2"], "did you mean `--learning_rate`?"),
        (["--learning-rate=1"], "did you mean `--learning_rate`?"),
        (["-learning_rate=1"], "did you mean `--learning_rate`?"),
        (["\u2014learning_rate=1"], "did you mean `--learning_rate`?"),
        (["--lr", "1e-3"], "it is called `--learning_rate` here"),
        (["--resume_from", "x"], "it is called `--resume` here"),
        (["--sample", "1"], "it may be --sample_prompts, --sample_every_n_steps,"),
        (["--nonsense", "x", "y"], "see test --help"),
        (["--huggingface_tokn", "x"], ""),
        (["--wandb_api_ky", "x"], ""),
        (["--wandb", "x"], ""),
    ],
)
def test_an_unknown_flag_is_one_error(argv: list[str], hint: str) -> None:
    ((what, told),) = hints_of(*argv)
    assert what.startswith("unknown flag")
    assert hint in told
    assert not any(secret in told for secret in SECRETS)


def test_what_follows_a_known_flag_is_kept() -> None:
    found = hints_of(
        "--network_dim",
        "8",
        "--adaptive_noise_scale",
        "-0.1",
        "word",
        "--caption_prefix=- a",
        "--seed=x",
    )
    assert [what for what, _ in found] == [
        "unknown flag --network_dim",
        "unexpected word 'word'",
        "--seed x is not a whole number",
    ]
    assert (
        parse(
            "sd", ["--adaptive_noise_scale", "-.1", "--caption_prefix=- a"], "test"
        ).adaptive_noise_scale
        == -0.1
    )


@pytest.mark.parametrize(
    "word", ["network_module", "sdxl", "text_encoder_lr", "unet_lr", "fp16", "prompt"]
)
def test_far_off_flags_are_not_proposed(word: str) -> None:
    assert did_you_mean(f"--{word}", [flag.name for flag in flags_of("sd")]) == ""


@pytest.mark.parametrize(
    ("word", "known", "slip"),
    [
        ("learning_rat", "learning_rate", True),
        ("lerning_rte", "learning_rate", True),
        ("learning_rate", "learning_rate", False),
        ("noise_offset_type", "noise_offset", False),
        ("sed", "seed", True),
        ("sdxl", "seed", False),
        ("v1", "v2", False),
    ],
)
def test_slips_of_the_pen(word: str, known: str, slip: bool) -> None:
    assert is_slip(word, known) is slip
    assert is_slip(known, word) is slip or len(word) < 4


@pytest.mark.parametrize(
    ("word", "near"), [("red-cros", "red-cross"), ("red_cross", "red-cross"), ("blue", "")]
)
def test_names_with_dashes_are_proposed_too(word: str, near: str) -> None:
    assert did_you_mean(word, ["red-cross", "moon"]) == (f"did you mean `{near}`?" if near else "")
