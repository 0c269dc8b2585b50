"""Build the configuration of console, trackers and uploads to the hub from flag values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coinage.config import GivenFlag, HubConfig, LogConfig, TrackerName
from coinage.errors import CoinageError, Findings, did_you_mean
from coinage.models.hub_files import HUB_ID
from coinage.settings.flag_values import ABOUT_THE_FILE, FlagValues
from coinage.settings.flags import BY_DEST, SECRETS, flags_of
from coinage.system.text_files import read_toml

# Texts that --log_config sends: numbers, switches and choices are always sent, and no other text is.
TEXTS = (
    "token_string", "init_word", "resolution", "optimizer_type", "optimizer_args",
    "lr_scheduler", "lr_scheduler_type", "lr_scheduler_args", "caption_separator",
    "caption_extension", "keep_tokens_separator", "secondary_separator", "face_crop_aug_range",
    "background",
)  # fmt: skip
PATHS = (  # sent without their folders
    "pretrained_model_name_or_path", "vae", "dataset_config", "train_data_dir", "reg_data_dir",
    "conditioning_data_dir", "in_json", "weights", "sample_prompts", "caption_templates",
)  # fmt: skip
TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "wandb")
REPO_TYPES = ("model", "dataset", "space")
INSTALL_WANDB = "pip install wandb"


def build_log(values: FlagValues, wandb_installed: bool | None, findings: Findings) -> LogConfig:
    """Return where progress is recorded, and which settings are sent with it.

    Args:
        values: of all flags.
        wandb_installed: None where nobody has looked.
        findings: gets what is wrong.
    """
    trackers = _trackers(values, wandb_installed, findings)
    arguments = _tracker_arguments(values.log_tracker_config, findings)
    idle = [f"[{name}]" for name in arguments if name in TRACKERS and name not in trackers]
    if idle and trackers:
        what = f"{', '.join(idle)} has no effect, since that tracker is not used"
        findings.note(f"--log_tracker_config: {what}")
    return LogConfig(
        dir=Path(values.logging_dir) if values.logging_dir else None,
        trackers=trackers,
        prefix=values.log_prefix or "",
        name=values.log_tracker_name or "textual_inversion",
        run_name=values.wandb_run_name,
        wandb_key=values.wandb_api_key,
        arguments=arguments,
        settings=tuple(sorted(settings_to_send(values).items())) if values.log_config else (),
        program=values.script.program,
        given=given_flags(values),
        typed=typed_flags(values),
        level=_level(values, findings),
        file=Path(values.console_log_file) if values.console_log_file else None,
        simple=values.console_log_simple,
        quiet=values.quiet,
    )


def _level(values: FlagValues, findings: Findings) -> str:
    """Return the least level that is printed."""
    if values.quiet and values.verbose:
        what = "--quiet and --verbose exclude each other"
        findings.error(what, hint="leave one of them out")
    if values.console_log_level:
        return str(values.console_log_level)
    if values.quiet:
        return "WARNING"
    return "DEBUG" if values.verbose else "INFO"


def _trackers(
    values: FlagValues, wandb_installed: bool | None, findings: Findings
) -> tuple[TrackerName, ...]:
    asked, missing = values.log_with, wandb_installed is False
    if asked in ("tensorboard", "all") and not values.logging_dir:
        what = f"--log_with {asked} needs --logging_dir"
        findings.error(what, hint="add --logging_dir logs")
    if asked == "wandb":
        if missing:
            what = "--log_with wandb needs the package wandb, which is not installed"
            findings.error(what, hint=INSTALL_WANDB)
        return ("wandb",)
    if asked == "all":
        if missing:
            what = f"W&B is not installed ({INSTALL_WANDB}), so only TensorBoard is used"
            findings.note(f"--log_with all: {what}")
        return TRACKERS[:1] if missing else TRACKERS
    return ("tensorboard",) if values.logging_dir else ()


def _tracker_arguments(file: str | None, findings: Findings) -> Mapping[str, Mapping[str, Any]]:
    """Read the tables of `--log_tracker_config`, one per tracker."""
    if not file:
        return {}
    try:
        tables = read_toml(Path(file), "--log_tracker_config")
    except CoinageError as error:
        findings.errors += error.problems
        return {}
    for name, table in tables.items():
        if name not in TRACKERS or not isinstance(table, dict):
            what = f"--log_tracker_config: `{name}` is not a tracker's table"
            usual = "write [wandb] or [tensorboard], and its arguments below"
            findings.error(what, file, did_you_mean(name, TRACKERS) or usual)
    return tables


def settings_to_send(values: FlagValues) -> dict[str, Any]:
    """Return the settings that trackers may have: no key, no folder, no text but of those named."""
    sent: dict[str, Any] = {}
    for dest, value in vars(values).items():
        flag = BY_DEST.get(dest)
        if flag is None or value is None:
            continue
        plain = flag.kind in ("int", "float", "ratio", "switch") or bool(flag.choices)
        if dest in PATHS:
            sent[dest] = Path(value).name
        elif plain or dest in TEXTS:
            sent[dest] = " ".join(value) if isinstance(value, list) else value
    return sent


def given_flags(values: FlagValues) -> tuple[GivenFlag, ...]:
    """Return the flags that differ from their defaults, but for keys and those about settings files."""
    given = []
    for flag in flags_of(values.script):
        value = getattr(values, flag.dest)
        if value == flag.default or flag.dest in (*SECRETS, *ABOUT_THE_FILE):
            continue
        arguments: tuple[str, ...] = (str(value),)
        if flag.kind == "switch" and not isinstance(value, str):
            arguments = ()
        elif flag.kind == "list":
            arguments = tuple(map(str, value))
        given.append(GivenFlag(flag.group, flag.name, arguments))
    return tuple(given)


def typed_flags(values: FlagValues) -> tuple[GivenFlag, ...]:
    """Return the flags of a command line that names a settings file, that file included; else nothing."""
    if "config_file" not in values.typed:
        return ()
    flag = BY_DEST["config_file"]
    named = GivenFlag(flag.group, flag.name, (str(values.config_file),))
    dests = {f"--{name}" for name in values.typed}
    return named, *(given for given in given_flags(values) if given.name in dests)


def build_hub(values: FlagValues, findings: Findings) -> HubConfig:
    """Return where on the hub the files go."""
    repo, visibility = values.huggingface_repo_id, values.huggingface_repo_visibility
    kind = values.huggingface_repo_type or "model"
    if kind not in REPO_TYPES:
        hint = did_you_mean(kind, REPO_TYPES) or f"one of {', '.join(REPO_TYPES)}"
        findings.error(f"--huggingface_repo_type {kind} is not known", hint=hint)
    if visibility not in (None, "public", "private"):
        what = f"--huggingface_repo_visibility {visibility} is not known"
        findings.error(what, hint="public or private")
    if values.save_state_to_huggingface and not repo:
        what = "--save_state_to_huggingface needs --huggingface_repo_id"
        findings.error(what, hint="give the repository, such as me/mychar")
    if repo and not HUB_ID.fullmatch(repo):
        what = f"--huggingface_repo_id {repo} is not a repository"
        findings.error(what, hint="write owner/name")
    folder = (values.huggingface_path_in_repo or "").strip("/")
    if {"..", "."} & set(folder.split("/")):
        what = f"--huggingface_path_in_repo {folder} is not a folder of a repository"
        findings.error(what, hint="write words/mychar, or leave it out")
    return HubConfig(
        repo_id=repo,
        repo_type=kind,
        folder=folder,
        token=values.huggingface_token,
        private=visibility != "public",
        background=values.async_upload,
        states=values.save_state_to_huggingface,
    )
