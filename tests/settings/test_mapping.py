"""A configuration from values and from TOML, and back."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coinage.config import OPEN_SEED, TrainConfig
from coinage.demo.run import MODEL
from coinage.errors import ConfigError, Findings
from coinage.settings.discover import discover
from coinage.settings.flags import Flag, flags_of
from coinage.settings.ranges import RANGES
from coinage.settings.scripts import Script

LEAST: dict[str, object] = {
    "pretrained_model_name_or_path": "no/model",
    "token_string": "zibu",
    "output_dir": "out",
    "train_data_dir": "images",
}
# Given together with others they are errors, or need files
LEFT_OUT = {
    *LEAST,
    "config_file", "output_config", "dataset_config", "in_json", "log_tracker_config", "quiet", "verbose",
    "optimizer_type", "use_8bit_adam", "use_lion_optimizer", "lr_scheduler", "lr_scheduler_type",
    "lr_scheduler_args", "optimizer_args", "init_word", "weights", "fp8_base", "low_memory",
    "full_fp16", "full_bf16", "adaptive_noise_scale", "offload_optimizer_device", "offload_param_device",
    "deepspeed", "log_with",
    "v_pred_like_loss", "metadata_is_negative_embedding", "huggingface_repo_type", "huggingface_repo_id",
    "huggingface_repo_visibility", "huggingface_path_in_repo", "save_state_to_huggingface", "resolution",
    "face_crop_aug_range", "background", "min_timestep", "max_timestep", "use_object_template",
    "use_style_template", "caption_templates", "norm_mode", "v2", "lr_warmup_steps", "random_crop",
    "color_aug", "cache_latents", "cache_latents_to_disk", "min_bucket_reso", "max_bucket_reso",
    "bucket_reso_steps", "caption_extension", "caption_extention", "caption_separator", "token_warmup_min",
    "enable_bucket", "bucket_no_upscale", "train", "start_step", "end_step", "timestep_distribution",
    "noising_weight", "noising_bias",
}  # fmt: skip
TEXT = st.text("abcXYZ 019_-é", min_size=1, max_size=8).filter(lambda text: text.strip() == text)


def value_of(flag: Flag) -> st.SearchStrategy[Any]:
    """Values that a flag may have, as Python's."""
    if flag.kind == "switch":
        return st.booleans()
    if flag.choices:
        return st.sampled_from(flag.choices)
    allowed = RANGES.get(flag.dest)
    if allowed and flag.kind == "int":
        return st.integers(int(allowed.least), min(int(allowed.most), 10**6))
    if allowed:
        values = st.floats(allowed.least, min(allowed.most, 1e6), exclude_min=allowed.above)
        return values.filter(lambda value: flag.kind != "ratio" or value < 1)
    return TEXT.map(Path) if flag.path else TEXT


def mappings(script: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some flags of a script with values."""
    flags = [flag for flag in flags_of(script) if flag.dest not in LEFT_OUT]
    return st.fixed_dictionaries({}, optional={flag.dest: value_of(flag) for flag in flags})


@pytest.mark.parametrize("script", list(Script))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_configuration_is_equal_after_a_round_trip(script: str, data: st.DataObject) -> None:
    values = LEAST | {"resolution": 512} | data.draw(mappings(script))
    secrets = {name for name in ("wandb_api_key", "huggingface_token") if values.pop(name, None)}
    config = TrainConfig.from_mapping(values, script=script)
    text = config.to_toml()
    with_secrets = TrainConfig.from_mapping(values | dict.fromkeys(secrets, "hush"), script=script)
    assert with_secrets.to_toml() == text, "no secret is written"
    again = TrainConfig.from_mapping(parsed(text), script=script)
    assert again == config
    assert again.to_toml() == text


def parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def test_a_written_file_is_read_as_the_same_configuration(tmp_path: Path) -> None:
    config = TrainConfig.from_mapping(
        LEAST | {"learning_rate": 1e-3, "output_dir": tmp_path, "resolution": (64, 96)}, script="sd"
    )
    text = config.to_toml(tmp_path / "settings.toml")
    assert (tmp_path / "settings.toml").read_text(encoding="utf-8") == text
    assert TrainConfig.from_toml(tmp_path / "settings.toml", script="sd") == config
    assert config.data.datasets[0].resolution_wh == (64, 96)
    assert "learning_rate = 0.001" in text


def test_a_number_of_steps_that_is_given_keeps_the_run_from_ending_early() -> None:
    config = TrainConfig.from_mapping(LEAST | {"max_train_steps": 1600})
    assert not config.loop.early_stop
    assert TrainConfig.from_mapping(parsed(config.to_toml())) == config
    assert TrainConfig.from_mapping(LEAST).loop.early_stop


def test_the_defaults_are_those_of_the_script() -> None:
    own = TrainConfig.from_mapping(LEAST)
    reference = TrainConfig.from_mapping(LEAST | {"resolution": 512}, script="sd")
    assert (own.optim.name, own.save.format) == ("Directional", "safetensors")
    assert (reference.optim.name, reference.save.format) == ("AdamW", "pt")
    with pytest.raises(ConfigError, match="there is no script 'sdx'\nhint: did you mean `sdxl`"):
        TrainConfig.from_mapping(LEAST, script="sdx")


def test_all_problems_are_reported_together() -> None:
    values = {"learning_rat": 1, "learning_rate": "fast", "huber_c": 2, "words": [], "seed": True}
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_mapping(values)
    text = str(caught.value)
    for part in (
        "unknown key `learning_rat`\nhint: did you mean `learning_rate`?",
        '`learning_rate = "fast"` is not a number',
        "--huber_c 2.0 must be at most 1",
        "`words`: a mapping is for one word",
        "`seed = true` is not a whole number",
        "--token_string is missing",
        "no dataset",
    ):
        assert part in text


def test_nothing_is_looked_at_but_what_is_open_stays_open() -> None:
    config = TrainConfig.from_mapping(LEAST)
    assert (config.model.family, config.loop.seed) == ("", OPEN_SEED)
    assert config.data.datasets[0].subsets[0].image_dir == Path("images")


def test_what_was_changed_by_hand_stays(tmp_path: Path) -> None:
    Image.new("RGB", (80, 64), "red").save(tmp_path / "1.png")
    values = LEAST | {"train_data_dir": tmp_path, "pretrained_model_name_or_path": MODEL}
    config = TrainConfig.from_mapping(values)
    dataset = replace(config.data.datasets[0], batch_size=3)
    data = replace(config.data, datasets=(dataset,))
    changed = replace(config, data=data, loop=replace(config.loop, seed=0))
    complete = discover(changed, Findings())
    assert (complete.loop.seed, complete.model.family) == (0, "sd1")
    assert complete.data.datasets[0].batch_size == 3
    assert complete.data.datasets[0].resolution_wh == (64, 64), "as was found"
    assert complete.data.datasets[0].subsets[0].captions.template == "object", "as was found"
    with pytest.raises(ConfigError, match="was changed after it was made from its values"):
        changed.to_toml()
    assert discover(complete, Findings()) == complete


TWO = """\
pretrained_model_name_or_path = "m"
output_dir = "out"
train_data_dir = "images"
[[words]]
token_string = "zibu"
[[words]]
token_string = "wopo"
learning_rate = 1e-3
"""


def test_several_words_of_a_file_are_a_list(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(TWO, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the file has 2 words[\s\S]*TrainConfig.list_from_toml"):
        TrainConfig.from_toml(file)
    first, second = TrainConfig.list_from_toml(file)
    assert (first.word.token, second.word.token) == ("zibu", "wopo")
    assert (first.optim.name, second.optim.name) == ("Directional", "AdamW")
    file.write_text(TWO.rpartition("[[words]]")[0], encoding="utf-8")
    assert TrainConfig.from_toml(file).word.token == "zibu"


def test_an_unknown_key_of_a_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "odd.toml"
    file.write_text('epoch = 3\ntoken_strin = "zibu"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown key `epoch`[\s\S]*unknown key `token_strin`"):
        TrainConfig.from_toml(file)


def test_a_configuration_made_by_hand_has_no_toml() -> None:
    config = replace(TrainConfig.from_mapping(LEAST), values=None)
    with pytest.raises(ConfigError, match="was not made from values"):
        config.to_toml()
