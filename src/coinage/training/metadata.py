"""Describe an embedding in its header: by ModelSpec 1.0.1, by the keys of other trainers, and by our own."""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from coinage import __version__
from coinage.embeddings.header import TRAINED, usage_hint, utc_now
from coinage.runs.digests import short_hash

if TYPE_CHECKING:
    from coinage.training.run import Run

FORMAT_VERSION = "1"  # of the keys that begin with ti.
FULL_RANGE = (0, 1000)  # of timesteps


def describe(run: Run, stem: str) -> dict[str, str]:
    """Return the header of a safetensors embedding.

    Args:
        run: as it is now.
        stem: of the file's name, under which most tools know the word.
    """
    config, word = run.config, run.placeholder.token
    predicts_v = run.parts.schedule.prediction_type == "v_prediction"
    fields = _model_spec(run, stem, predicts_v=predicts_v)
    fields |= _other_trainers(run, predicts_v=predicts_v)
    fields |= _own_fields(run)
    if config.word.role == "negative":
        fields["modelspec.is_negative_embedding"] = "true"
    if stem != word:
        fields["modelspec.usage_hint"] = usage_hint(stem, word)
    if config.model.clip_skip and run.family.facts.reads_clip_skip:
        fields["modelspec.encoder_layer"] = str(config.model.clip_skip)
    timesteps = (config.noise.min_timestep, config.noise.max_timestep)
    if timesteps != FULL_RANGE:
        fields["modelspec.timestep_range"] = f"{timesteps[0]},{timesteps[1]}"
    return fields | {f"modelspec.{key}": value for key, value in config.save.metadata}


def _model_spec(run: Run, stem: str, *, predicts_v: bool) -> dict[str, str]:
    """Return the fields of ModelSpec that every file has."""
    width, height = run.config.data.datasets[0].resolution_wh
    facts = run.family.facts
    architecture = facts.v_architecture if predicts_v else facts.architecture
    prediction = {} if facts.is_flow else {"prediction_type": "v" if predicts_v else "epsilon"}
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.implementation_version": f"coinage/{__version__}",
        "modelspec.title": stem,
        "modelspec.date": utc_now(),
        "modelspec.resolution": f"{width}x{height}",
        **{f"modelspec.{key}": value for key, value in prediction.items()},
        "modelspec.trigger_phrase": stem,
    }


def _other_trainers(run: Run, *, predicts_v: bool) -> dict[str, str]:
    """Return the fields by which sd-scripts and the tools around it know a file's model."""
    facts, source = run.family.facts, run.config.model.source
    return {
        "ss_base_model_version": facts.v_base_version if predicts_v else facts.base_version,
        "ss_v2": str("--v2" in facts.script_flags),
        "ss_sd_model_name": Path(source).name,
        "ss_sd_model_hash": short_hash(source),
    }


def _own_fields(run: Run) -> dict[str, str]:
    """Return the fields from which a run can be repeated."""
    config = run.config
    fields = {
        "ti.format_version": FORMAT_VERSION,
        "ti.token_string": run.placeholder.token,
        "ti.num_vectors": str(run.placeholder.num_vectors),
        "ti.init_word": config.word.init_word or "",
        "ti.role": config.word.role,
    }
    if config.word.search:
        fields["ti.init_search"] = "auto"
    if config.loop.chosen:
        fields["ti.autopilot"] = config.loop.chosen
    if not all(run.learns_in):
        fields[TRAINED] = ", ".join(compress(run.parts.keys, run.learns_in))
    beside = [word.token for word in (*config.learns_with, *config.companions)]
    if beside:
        fields["ti.learned_with"] = ", ".join(beside)
    return fields | {
        "ti.step": str(run.step),
        "ti.epoch": str(run.progress.epoch),
        "ti.seed": str(config.loop.seed),
        "ti.learning_rate": repr(run.learning_rate),
        "ti.optimizer": run.optimizer_name,
        "ti.num_images": str(sum(sample.trains for sample in run.samples)),
        "ti.base_model": Path(config.model.source).name,
        "ti.base_model_hash": short_hash(config.model.source),
    }
