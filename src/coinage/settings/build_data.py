"""Build the data configuration from flag values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import ImageColor

from coinage.data.dataset_config import DatasetDefaults, Layer
from coinage.data.dataset_file import read_datasets, single_subset
from coinage.data.dataset_folders import folder_layout
from coinage.data.dataset_keys import KEYS
from coinage.data.own_templates import read_templates
from coinage.data_config import DataConfig, DatasetConfig, Template
from coinage.errors import Findings
from coinage.models.facts import FACTS, FamilyFacts
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import BY_DEST
from coinage.settings.scripts import Script

# Dataset keys whose flags have another name, and those whose flags are read in their own way
OTHER_NAME = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
READ_APART = ("resolution", "face_crop_aug_range", "caption_extension")
# Pixels, while the family is not known: what any of them takes
LEAST_BUCKET_UNIT = min(facts.bucket_unit for facts in FACTS.values())
OPEN_RESOLUTION = 512  # pixels; stands for the model's own size until that is known
FACE_RANGE = "--face_crop_aug_range"
FACE_HINT = "write lo,hi such as 2.0,4.0"


def build_data(
    values: FlagValues,
    facts: FamilyFacts | None,
    findings: Findings,
    *,
    look_into_folders: bool,
    folder: Path | None = None,
) -> DataConfig:
    """Return all images and how they are read; add what is wrong with the settings to `findings`.

    Args:
        values: of all flags.
        facts: of the family; None while it is not known.
        findings: gets errors, warnings and notes.
        look_into_folders: find the subfolders of `--train_data_dir`; otherwise it is one subset.
        folder: images to take in place of what the flags name: in subfolders such as 10_mychar, or directly.
    """
    fallback = _fallback(values, facts, findings, look_into_folders=look_into_folders)
    if folder:
        datasets = folder_layout(folder, None, fallback, findings)
    else:
        datasets = _datasets(values, fallback, findings, look_into_folders=look_into_folders)
    return DataConfig(
        datasets=datasets,
        cache_latents=fallback.cached,
        cache_to_disk=values.cache_latents_to_disk,
        cache_dir=Path(values.cache_dir) if values.cache_dir else None,
        # Only SDXL's script has the flags
        cache_text=getattr(values, "cache_text_encoder_outputs", False),
        cache_text_to_disk=getattr(values, "cache_text_encoder_outputs_to_disk", False),
        trust_cache=values.skip_cache_check,
        vae_batch_size=values.vae_batch_size,
        readers=values.max_data_loader_n_workers,
        skip_bad_images=values.skip_bad_images,
        require_word=values.require_token,
        masks_wanted=values.masked_loss,
    )


def _datasets(
    values: FlagValues, fallback: DatasetDefaults, findings: Findings, *, look_into_folders: bool
) -> tuple[DatasetConfig, ...]:
    if values.dataset_config:
        others = ("train_data_dir", "reg_data_dir", "in_json")
        given = [f"--{name}" for name in others if getattr(values, name)]
        if given:
            findings.note(f"{', '.join(given)} has no effect: --dataset_config names the folders")
        return read_datasets(Path(values.dataset_config), fallback, findings)
    folder = values.train_data_dir
    if values.in_json:
        subset = {"metadata_file": values.in_json}
        if folder:
            subset["image_dir"] = folder
        return single_subset(subset, f"--in_json {values.in_json}", fallback, findings)
    if not folder:
        hint = "give --dataset_config dataset.toml or --train_data_dir folder"
        findings.error("no dataset", hint=hint)
        return ()
    if not look_into_folders:
        return single_subset({"image_dir": folder}, folder, fallback, findings)
    regularisation = Path(values.reg_data_dir) if values.reg_data_dir else None
    return folder_layout(Path(folder), regularisation, fallback, findings)


def _fallback(
    values: FlagValues, facts: FamilyFacts | None, findings: Findings, *, look_into_folders: bool
) -> DatasetDefaults:
    """Return what flags supply to every dataset: their defaults, and those that were given."""
    defaults, given = _by_dataset_key(values)
    if values.resolution:
        hint = "write 512 or 512,768 (width,height)"
        size = _numbers(values.resolution, "--resolution", int, hint, findings)
        given["resolution"] = size or OPEN_RESOLUTION
    elif values.script == Script.COINAGE and values.train_data_dir and not look_into_folders:
        given["resolution"] = OPEN_RESOLUTION
    if values.face_crop_aug_range:
        given["face_crop_aug_range"] = _face_range(values.face_crop_aug_range, findings)
    negative = values.role == "negative"
    if negative:
        findings.note(
            "--role negative: sentences with the word take the place of captions, "
            "since the word will be in negative prompts alone"
        )
    return DatasetDefaults(
        layers=(Layer("default", defaults), Layer("command line", given)),
        template=_template(values, findings) or ("object" if negative else None),
        cached=values.cache_latents or values.cache_latents_to_disk,
        bucket_unit=facts.bucket_unit if facts else LEAST_BUCKET_UNIT,
        as_reference=values.data_as_reference,
        log_ratio=values.bucket_log_ratio,
        background=_color(values.background, findings),
    )


def _template(values: FlagValues, findings: Findings) -> Template | None:
    """Return the sentences that take the place of captions, if flags ask for some."""
    flags = ("caption_templates", "use_style_template", "use_object_template")
    given = [f"--{name}" for name in flags if getattr(values, name)]
    if len(given) > 1:
        findings.error(f"{' and '.join(given)} exclude each other", hint="keep one of them")
    if values.caption_templates:
        return read_templates(Path(values.caption_templates), values.token_string, findings)
    if values.use_style_template:
        return "style"
    return "object" if values.use_object_template else None


def _by_dataset_key(values: FlagValues) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return, by the keys of dataset files, the defaults of flags and the values that differ from them."""
    defaults: dict[str, Any] = {"caption_extension": None, "face_crop_aug_range": None}
    given: dict[str, Any] = {}
    same_name = {key: key for key in KEYS if key in BY_DEST and key not in READ_APART}
    for key, flag in (same_name | OTHER_NAME).items():
        defaults[key] = BY_DEST[flag].default
        value = getattr(values, flag)
        if value != defaults[key]:
            given[key] = value
    # The default suffix also finds .txt files: a folder of them must not train without captions.
    extension = values.caption_extention or values.caption_extension
    if extension != BY_DEST["caption_extension"].default:
        given["caption_extension"] = extension
    return defaults, given


def _face_range(text: str, findings: Findings) -> list[float] | None:
    """Return the two numbers of `--face_crop_aug_range`."""
    numbers = _numbers(text, FACE_RANGE, float, FACE_HINT, findings)
    if numbers and len(text.split(",")) != 2:
        findings.error(f"{FACE_RANGE} {text!r} is not a range", hint=FACE_HINT)
        return None
    return numbers


def _color(name: str, findings: Findings) -> str:
    try:
        ImageColor.getrgb(name)
    except ValueError:
        findings.error(
            f"--background {name!r} is not a colour",
            hint="write a name or #rrggbb, such as white or #808080",
        )
    return name


def _numbers(
    text: str, flag: str, kind: type[int | float], hint: str, findings: Findings
) -> list[float] | None:
    """Read one number, taken twice, or two with a comma between; None where they cannot be read."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        noun = "size" if kind is int else "range"
        findings.error(f"{flag} {text!r} is not a {noun}", hint=hint)
        return None
    return [values[0], values[-1]]
