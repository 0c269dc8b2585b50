"""From flag values to what is told of a run: trackers, and uploads to the hub."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coinage.config import HubConfig, LogConfig, TrackerName
from coinage.errors import CoinageError, Findings, did_you_mean
from coinage.models.hub_files import HUB_ID
from coinage.settings.flags import BY_DEST, SECRETS, flags_of
from coinage.settings.scripts import PROGRAMS, Script
from coinage.system.text_files import read_toml

# What --log_config tells of texts; numbers, switches and choices are always told, and everything else never.
TEXTS = (
    "token_string", "init_word", "resolution", "optimizer_type", "optimizer_args", "lr_scheduler", "lr_scheduler_type",
    "lr_scheduler_args", "caption_separator", "caption_extension", "keep_tokens_separator", "secondary_separator",
    "face_crop_aug_range", "background",
)  # fmt: skip
PATHS = (  # told without their folders
    "pretrained_model_name_or_path", "vae", "dataset_config", "train_data_dir", "reg_data_dir", "conditioning_data_dir", "in_json",
    "weights", "sample_prompts",
)  # fmt: skip
TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "wandb")
REPO_TYPES = ("model", "dataset", "space")


def build_log(args: argparse.Namespace, findings: Findings) -> LogConfig:
    """Where progress is recorded, and what of the settings with it."""
    trackers = _trackers(args, findings)
    arguments = _tracker_arguments(args.log_tracker_config, findings)
    idle = [f"[{name}]" for name in arguments if name in TRACKERS and name not in trackers]
    if idle and trackers:
        findings.note(
            f"--log_tracker_config: {', '.join(idle)} has no effect, since that tracker is not used"
        )
    return LogConfig(
        dir=Path(args.logging_dir) if args.logging_dir else None,
        trackers=trackers,
        prefix=args.log_prefix or "",
        name=args.log_tracker_name or "textual_inversion",
        run_name=args.wandb_run_name,
        wandb_key=args.wandb_api_key,
        arguments=arguments,
        settings=tuple(sorted(told_settings(args).items())) if args.log_config else (),
        program=PROGRAMS[Script(args.script)],
        given=given_flags(args),
        level=_level(args, findings),
        file=Path(args.console_log_file) if args.console_log_file else None,
        simple=args.console_log_simple,
        quiet=args.quiet,
    )


def _level(args: argparse.Namespace, findings: Findings) -> str:
    """The least that is printed."""
    if args.quiet and args.verbose:
        findings.error(
            "--quiet and --verbose ask for opposite things", hint="leave one of them out"
        )
    return args.console_log_level or (
        "WARNING" if args.quiet else "DEBUG" if args.verbose else "INFO"
    )


def _trackers(args: argparse.Namespace, findings: Findings) -> tuple[TrackerName, ...]:
    if args.log_with in ("tensorboard", "all") and not args.logging_dir:
        findings.error(
            f"--log_with {args.log_with} needs --logging_dir", hint="add --logging_dir logs"
        )
    installed = find_spec("wandb") is not None
    if args.log_with == "wandb" and not installed:
        findings.error(
            "--log_with wandb needs the package wandb, which is not installed",
            hint="pip install wandb",
        )
    if args.log_with == "all":
        if not installed:
            findings.note(
                "--log_with all: W&B is not installed (pip install wandb), so only TensorBoard is used"
            )
        return TRACKERS if installed else TRACKERS[:1]
    if args.log_with == "wandb":
        return ("wandb",)
    return ("tensorboard",) if args.logging_dir else ()


def _tracker_arguments(file: str | None, findings: Findings) -> Mapping[str, Mapping[str, Any]]:
    """The tables of `--log_tracker_config`, one per tracker."""
    if not file:
        return {}
    try:
        tables = read_toml(Path(file), "--log_tracker_config")
    except CoinageError as error:
        findings.errors += error.problems
        return {}
    for name, table in tables.items():
        if name not in TRACKERS or not isinstance(table, dict):
            hint = (
                did_you_mean(name, TRACKERS)
                or "write [wandb] or [tensorboard], and its arguments below"
            )
            findings.error(f"--log_tracker_config: `{name}` is not a tracker's table", file, hint)
    return tables


def told_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that trackers may be told: no key, no folder, no text but of those named."""
    told: dict[str, Any] = {}
    for dest, value in vars(args).items():
        flag = BY_DEST.get(dest)
        if flag is None or value is None:
            continue
        if dest in PATHS:
            told[dest] = Path(value).name
        elif flag.kind in ("int", "float", "ratio", "switch") or flag.choices or dest in TEXTS:
            told[dest] = " ".join(value) if isinstance(value, list) else value
    return told


def given_flags(args: argparse.Namespace) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    """By group, each flag that differs from its default, with its words; keys and what only names other settings are left out."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for flag in flags_of(args.script):
        value = getattr(args, flag.dest)
        if value == flag.default or flag.dest in (*SECRETS, "config_file", "output_config"):
            continue
        words = (
            ()
            if flag.kind == "switch"
            else map(str, value)
            if flag.kind == "list"
            else (str(value),)
        )
        groups.setdefault(flag.group, []).append((flag.name, *words))
    return tuple((group, tuple(flags)) for group, flags in groups.items())


def build_hub(args: argparse.Namespace, findings: Findings) -> HubConfig:
    """Where on the hub the files go."""
    kind = args.huggingface_repo_type or "model"
    if kind not in REPO_TYPES:
        hint = did_you_mean(kind, REPO_TYPES) or f"one of {', '.join(REPO_TYPES)}"
        findings.error(f"--huggingface_repo_type {kind} is not known", hint=hint)
    if args.huggingface_repo_visibility not in (None, "public", "private"):
        findings.error(
            f"--huggingface_repo_visibility {args.huggingface_repo_visibility} is not known",
            hint="public or private",
        )
    if args.save_state_to_huggingface and not args.huggingface_repo_id:
        findings.error(
            "--save_state_to_huggingface needs --huggingface_repo_id",
            hint="give the repository, such as me/mychar",
        )
    if args.huggingface_repo_id and not HUB_ID.fullmatch(args.huggingface_repo_id):
        findings.error(
            f"--huggingface_repo_id {args.huggingface_repo_id} is not a repository",
            hint="write owner/name",
        )
    folder = (args.huggingface_path_in_repo or "").strip("/")
    if {"..", "."} & set(folder.split("/")):
        findings.error(
            f"--huggingface_path_in_repo {folder} is not a folder of a repository",
            hint="write words/mychar, or leave it out",
        )
    return HubConfig(
        repo_id=args.huggingface_repo_id,
        repo_type=kind,
        folder=folder,
        token=args.huggingface_token,
        private=args.huggingface_repo_visibility != "public",
        background=args.async_upload,
        states=args.save_state_to_huggingface,
    )
