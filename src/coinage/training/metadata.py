"""What an embedding's header tells: ModelSpec 1.0.1, what other trainers' files tell, and our own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from coinage import __version__
from coinage.embeddings.header import usage_hint, utc_now

if TYPE_CHECKING:
    from coinage.training.run import Run

FORMAT_VERSION = "1"  # of the keys that begin with ti.
BASES = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def describe(run: Run, stem: str) -> dict[str, str]:
    """The header of a safetensors embedding.

    Args:
        run: as it is now.
        stem: of the file's name, under which most tools know the word.
    """
    config = run.config
    width, height = config.data.datasets[0].resolution_wh
    predicts_v = run.parts.schedule.prediction_type == "v_prediction"
    is_v2_v = predicts_v and run.family.name == "sd2"
    word, base_hash = run.placeholder.token, short_hash(config.model.source)
    fields = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{'stable-diffusion-v2-768-v' if is_v2_v else run.family.architecture}/textual-inversion",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.implementation_version": f"coinage/{__version__}",
        "modelspec.title": stem,
        "modelspec.date": utc_now(),
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.prediction_type": "v" if predicts_v else "epsilon",
        "modelspec.trigger_phrase": stem,
        "ss_base_model_version": "sd_v2_v" if is_v2_v else BASES[run.family.name],
        "ss_v2": str(run.family.name == "sd2"),
        "ss_sd_model_name": Path(config.model.source).name,
        "ss_sd_model_hash": base_hash,
        "ti.format_version": FORMAT_VERSION,
        "ti.token_string": word,
        "ti.num_vectors": str(run.placeholder.num_vectors),
        "ti.init_word": config.word.init_word or "",
        "ti.role": config.word.role,
        **({"ti.init_search": "auto"} if config.word.search else {}),
        **({"ti.autopilot": config.loop.chosen} if config.loop.chosen else {}),
        "ti.step": str(run.step),
        "ti.epoch": str(run.progress.epoch),
        "ti.seed": str(config.loop.seed),
        "ti.learning_rate": repr(config.optim.learning_rate),
        "ti.optimizer": config.optim.name,
        "ti.num_images": str(sum(s.trains for s in run.samples)),
        "ti.base_model": Path(config.model.source).name,
        "ti.base_model_hash": base_hash,
    }
    if config.word.role == "negative":
        fields["modelspec.is_negative_embedding"] = "true"
    if stem != word:
        fields["modelspec.usage_hint"] = usage_hint(stem, word)
    if config.model.clip_skip and run.family.name != "sdxl":
        fields["modelspec.encoder_layer"] = str(config.model.clip_skip)
    if (config.noise.min_timestep, config.noise.max_timestep) != (0, 1000):
        fields["modelspec.timestep_range"] = (
            f"{config.noise.min_timestep},{config.noise.max_timestep}"
        )
    return fields | {f"modelspec.{key}": value for key, value in config.save.metadata}


def short_hash(source: str) -> str:
    """Eight digits by which AUTOMATIC1111 and others know a model: of 64 kB within its file, for a folder the UNet's; "" without a file."""
    path = Path(source)
    if path.is_dir():
        path = next(
            (
                file
                for pattern in ("*.safetensors", "*.bin")
                for file in sorted((path / "unet").glob(pattern))
            ),
            path,
        )
    try:
        with path.open("rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except OSError:
        return ""
