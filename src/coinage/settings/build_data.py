"""From flag values to the data configuration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import ImageColor

from coinage.config import DataConfig, DatasetConfig
from coinage.data.dataset_config import DatasetDefaults, Layer
from coinage.data.dataset_file import read_datasets, single_subset
from coinage.data.dataset_folders import folder_layout
from coinage.data.dataset_keys import KEYS
from coinage.errors import Findings
from coinage.models.facts import FamilyFacts
from coinage.settings.flags import BY_DEST

# Dataset keys whose flags have another name, and those whose flags are read in their own way.
OTHER_NAME = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
READ_APART = ("resolution", "face_crop_aug_range", "caption_extension")


def build_data(
    args: argparse.Namespace, facts: FamilyFacts, findings: Findings, folder: Path | None = None
) -> DataConfig:
    """All images and how they are read; what is wrong with the settings is found.

    Args:
        args: values of all flags.
        facts: of the family that is trained.
        findings: gets errors, warnings and notes.
        folder: images to take in place of what the flags name: in subfolders such as 10_mychar, or directly.
    """
    fallback = _fallback(args, facts, findings)
    return DataConfig(
        datasets=folder_layout(folder, None, fallback, findings)
        if folder
        else _datasets(args, fallback, findings),
        cache_latents=fallback.cached,
        cache_to_disk=args.cache_latents_to_disk,
        cache_dir=Path(args.cache_dir) if args.cache_dir else None,
        # Only SDXL's script has the flags
        cache_text=getattr(args, "cache_text_encoder_outputs", False),
        cache_text_to_disk=getattr(args, "cache_text_encoder_outputs_to_disk", False),
        trust_cache=args.skip_cache_check,
        vae_batch_size=args.vae_batch_size,
        readers=args.max_data_loader_n_workers,
        skip_bad_images=args.skip_bad_images,
        require_word=args.require_token,
        masks_wanted=args.masked_loss,
    )


def _datasets(
    args: argparse.Namespace, fallback: DatasetDefaults, findings: Findings
) -> tuple[DatasetConfig, ...]:
    if args.dataset_config:
        given = [
            f"--{name}"
            for name in ("train_data_dir", "reg_data_dir", "in_json")
            if getattr(args, name)
        ]
        if given:
            findings.note(f"{', '.join(given)} is not read: --dataset_config names the folders")
        return read_datasets(Path(args.dataset_config), fallback, findings)
    if args.in_json:
        values = {
            "metadata_file": args.in_json,
            **({"image_dir": args.train_data_dir} if args.train_data_dir else {}),
        }
        return single_subset(values, f"--in_json {args.in_json}", fallback, findings)
    if args.train_data_dir:
        reg = Path(args.reg_data_dir) if args.reg_data_dir else None
        return folder_layout(Path(args.train_data_dir), reg, fallback, findings)
    findings.error(
        "no dataset", hint="give --dataset_config dataset.toml or --train_data_dir folder"
    )
    return ()


def _fallback(args: argparse.Namespace, facts: FamilyFacts, findings: Findings) -> DatasetDefaults:
    """What flags supply to every dataset: their defaults, and those that were given."""
    flags = {key: key for key in KEYS if key in BY_DEST and key not in READ_APART} | OTHER_NAME
    defaults: dict[str, Any] = {key: BY_DEST[flag].default for key, flag in flags.items()}
    given: dict[str, Any] = {
        key: value
        for key, flag in flags.items()
        if (value := getattr(args, flag)) != BY_DEST[flag].default
    }
    defaults |= {"caption_extension": None, "face_crop_aug_range": None}
    # The default suffix also finds .txt files: a folder of them must not train without captions.
    extension = args.caption_extention or args.caption_extension
    if extension != BY_DEST["caption_extension"].default:
        given["caption_extension"] = extension
    if args.resolution:
        given["resolution"] = (
            _numbers(
                args.resolution,
                "--resolution",
                int,
                "write 512 or 512,768 (width,height)",
                findings,
            )
            or 512
        )
    if args.face_crop_aug_range:
        hint = "write lo,hi such as 2.0,4.0"
        face = _numbers(args.face_crop_aug_range, "--face_crop_aug_range", float, hint, findings)
        given["face_crop_aug_range"] = (
            face if face and len(args.face_crop_aug_range.split(",")) == 2 else None
        )
        if face and given["face_crop_aug_range"] is None:
            findings.error(
                f"--face_crop_aug_range {args.face_crop_aug_range!r} is not a range", hint=hint
            )
    if args.use_object_template and args.use_style_template:
        findings.error(
            "--use_object_template and --use_style_template exclude each other",
            hint="keep one of them",
        )
    if args.role == "negative":
        findings.note(
            "--role negative: sentences with the word take the place of captions, since it will stand without them"
        )
    sentences = args.use_object_template or args.role == "negative"
    return DatasetDefaults(
        layers=(Layer("default", defaults), Layer("command line", given)),
        template="style" if args.use_style_template else "object" if sentences else None,
        cached=args.cache_latents or args.cache_latents_to_disk,
        bucket_unit=facts.bucket_unit,
        as_reference=args.data_as_reference,
        log_ratio=args.bucket_log_ratio,
        background=_color(args.background, findings),
    )


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
    """One number, taken twice, or two, with a comma between."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2):
        findings.error(
            f"{flag} {text!r} is not a size" if kind is int else f"{flag} {text!r} is not a range",
            hint=hint,
        )
        return None
    return [values[0], values[-1]]
