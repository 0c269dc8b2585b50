"""Look up everything that was not given. Imports no torch.

This is the one place where a model, a folder, a state, an image or the hub is asked for a value of the
configuration: the model's family and own size, whether a folder has captions, the seed of a state that is
resumed, a state on the hub, the thumbnail's pixels, and whether W&B is installed.
"""

from __future__ import annotations

import base64
from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coinage.config import OPEN_SEED, TrainConfig
from coinage.data.captioned_images import has_captions
from coinage.data.folder import list_folder
from coinage.errors import CoinageError, Findings
from coinage.hub import fetch_state
from coinage.models.facts import DEFAULT, FACTS, FamilyFacts
from coinage.models.hub_files import HUB_ID, detect_family, native_side
from coinage.runs.states import named_state, read_summary
from coinage.seeding import draw_seed
from coinage.settings.build import (
    DATA_URL,
    Discovered,
    build,
    output_name_of,
)
from coinage.settings.build_data import OPEN_RESOLUTION
from coinage.settings.companions import with_lengths
from coinage.settings.flag_values import FlagValues
from coinage.settings.number_range import DRAW
from coinage.settings.scripts import Script, asked_family
from coinage.system.text_files import is_there

MOST_THUMBNAIL = 1_000_000  # bytes
THUMBNAIL_KINDS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}


def discover(config: TrainConfig, findings: Findings, seed: int | None = None) -> TrainConfig:
    """Return a configuration that leaves nothing open; what was changed by hand stays as it is.

    Args:
        config: as made from values, or by hand.
        findings: gets warnings and notes about the values.
        seed: taken where neither the values nor a state give one; None: it is drawn.

    Raises:
        ConfigError: all problems of the values together.
    """
    config = with_lengths(config, findings)
    if config.values is None:
        return _with_family_and_seed(config, seed)
    untouched, _ = build(config.values)
    completed, _ = complete(config.values, seed, findings)
    return _with_family_and_seed(_keep_changes(untouched, config, completed), seed)


def complete(
    values: FlagValues, seed: int | None = None, findings: Findings | None = None
) -> tuple[TrainConfig, Findings]:
    """Return the configuration of values, with all that was not given looked up.

    Arguments and errors are those of `discover`.
    """
    findings = Findings() if findings is None else findings
    fetched = _resume(values, findings)
    asked = values.seed not in (None, DRAW)
    discovered = Discovered(
        family=_family(values, findings),
        seed=values.seed if asked else _seed(values, fetched or values.resume, seed),
        resume=fetched,
        thumbnail=_thumbnail(values.metadata_thumbnail, findings),
        folders=True,
        wandb_installed=find_spec("wandb") is not None,
    )
    config, findings = build(_with_own_images(values), discovered, findings)
    return replace(config, values=values), findings


def _with_family_and_seed(config: TrainConfig, seed: int | None) -> TrainConfig:
    """Look up the family and draw the seed of a configuration that leaves them open."""
    if not config.model.family:
        family = detect_family(config.model.source) or DEFAULT.name
        config = replace(config, model=replace(config.model, family=family))
    if config.loop.seed == OPEN_SEED:
        config = replace(config, loop=replace(config.loop, seed=_drawn(seed)))
    return config


def _keep_changes(before: Any, changed: Any, onto: Any) -> Any:
    """Return `onto`, with every part in which `changed` differs from `before` as it is in `changed`.

    Configurations are compared field by field, and tuples of them entry by entry where there are as many.
    """
    if before == changed:
        return onto
    if is_dataclass(changed) and not isinstance(changed, type) and type(before) is type(onto):
        parts = {}
        for field in fields(changed):
            versions = [getattr(version, field.name) for version in (before, changed, onto)]
            parts[field.name] = _keep_changes(*versions)
        return type(changed)(**parts)
    if isinstance(changed, tuple) and isinstance(before, tuple) and isinstance(onto, tuple):
        nested = any(is_dataclass(entry) for entry in changed)
        if nested and len(before) == len(changed) == len(onto):
            return tuple(map(_keep_changes, before, changed, onto))
    return changed


def _with_own_images(values: FlagValues) -> FlagValues:
    """Fill in what `coinage train` decides by the folder of images: captions, and the size."""
    if values.script != Script.COINAGE or not values.train_data_dir or values.dataset_config:
        return values
    folder = Path(values.train_data_dir)
    extension = values.caption_extention or values.caption_extension
    plain = folder.is_dir() and not list_folder(folder, "", "folder", Findings()).folders
    captioned = bool(values.in_json) or has_captions(folder, extension)
    sentences = values.use_style_template or values.caption_templates
    if plain and not captioned and not sentences:
        values = values.changed(use_object_template=True)
    source = values.pretrained_model_name_or_path
    values = with_own_size(values, source)
    if values.resolution is None and source and not (is_there(source) or HUB_ID.fullmatch(source)):
        # The checks say that there is no model, which is the reason
        values = values.changed(resolution=str(OPEN_RESOLUTION))
    return values


def with_own_size(values: FlagValues, model: str | None) -> FlagValues:
    """Where no resolution is given, take the size that a model is made for, and buckets if they fit."""
    if values.resolution is not None or not model:
        return values
    side = native_side(model)
    if not side:
        return values
    buckets = values.enable_bucket or side >= values.min_bucket_reso
    return values.changed(resolution=str(side), enable_bucket=buckets)


def _family(values: FlagValues, findings: Findings) -> FamilyFacts:
    """Return the family that the script names; for `coinage train` that of the model."""
    source = values.pretrained_model_name_or_path
    asked = asked_family(values.script, v2=values.v2) or DEFAULT
    if values.script != Script.COINAGE:
        return asked
    detected = detect_family(source) if source else None
    facts = FACTS[detected] if detected else asked
    if values.v2 and "--v2" not in facts.script_flags:
        what = f"--v2: this is a {facts.display_name} model, and is trained as one"
        findings.warn(what, source)
    return facts


def _resume(values: FlagValues, findings: Findings) -> str | None:
    """Bring the state to go on from here, if it is on the hub; return its folder."""
    if not (values.resume and values.resume_from_huggingface):
        return None
    if Path(values.resume).is_dir():
        what = f"--resume {values.resume} is a folder here, so the hub is not used"
        findings.note(what)
        return None
    try:
        return str(fetch_state(values.resume, values.huggingface_token))
    except CoinageError as error:
        findings.errors += error.problems
        return None


def _seed(values: FlagValues, resume: str | None, shared: int | None) -> int:
    """Return the seed of the state to go on from, else the shared one, else a drawn one."""
    if not (values.output_dir and values.token_string):
        return OPEN_SEED  # what is missing is an error by itself
    state = named_state(resume, Path(values.output_dir), output_name_of(values))
    summary = read_summary(state) if state else None
    return int(summary.fingerprint["seed"]) if summary else _drawn(shared)


def _drawn(shared: int | None) -> int:
    return draw_seed() if shared is None else shared


def _thumbnail(given: str | None, findings: Findings) -> str | None:
    """Return an image file as a data URL."""
    if given is None or given.startswith(DATA_URL):
        return None
    path = Path(given)
    kind = THUMBNAIL_KINDS.get(path.suffix.lower())
    try:
        if kind is None or path.stat().st_size > MOST_THUMBNAIL:
            hint = "give a PNG, JPEG or WebP file below 1 MB"
            findings.warn("--metadata_thumbnail: left out", given, hint)
            return None
        return f"{DATA_URL}image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        findings.warn(f"--metadata_thumbnail: left out: {error.strerror}", given)
        return None
