"""How many layers a model's text encoders have, and how wide they are, by settings or headers. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.detect import HUB_ID, hub_folder, read_config, safetensors_shapes

# Key in embedding files, folder of diffusers, start of the names in a single file.
PLACES = {
    "sd1": (("emb_params", "text_encoder", "cond_stage_model."),),
    "sd2": (("emb_params", "text_encoder", "cond_stage_model."),),
    "sdxl": (
        ("clip_l", "text_encoder", "conditioner.embedders.0."),
        ("clip_g", "text_encoder_2", "conditioner.embedders.1."),
    ),
}
RELEASED_LAYERS = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}
TABLE = "token_embedding.weight"


@dataclass(frozen=True, slots=True)
class TextEncoderSize:
    """What is known of a text encoder; None is not known."""

    key: str  # of its vectors in embedding files
    layers: int | None = None
    width: int | None = None  # of its token embeddings


def text_encoder_sizes(model: ModelConfig) -> list[TextEncoderSize]:
    """Return the sizes of a model's text encoders, as far as a folder's settings or a file's header tell.

    Layers that are not told are those of the family's released model.
    """
    path = Path(model.source)
    if not path.exists() and HUB_ID.fullmatch(model.source):
        path = hub_folder(model.source) or path
    found = []
    for (key, folder, start), layers in zip(
        PLACES[model.family], RELEASED_LAYERS[model.family], strict=True
    ):
        try:
            size = (
                _of_file(path, key, start)
                if path.is_file()
                else _of_settings(path / folder / "config.json", key)
            )
        except (CoinageError, OSError):  # what is broken is an error elsewhere
            size = TextEncoderSize(key)
        if size.layers is None:
            size = TextEncoderSize(key, layers, size.width)
        found.append(size)
    return found


def _of_settings(path: Path, key: str) -> TextEncoderSize:
    settings = read_config(path)
    layers, width = (settings.get(name) for name in ("num_hidden_layers", "hidden_size"))
    return TextEncoderSize(
        key, layers if isinstance(layers, int) else None, width if isinstance(width, int) else None
    )


def _of_file(path: Path, key: str, start: str) -> TextEncoderSize:
    """The size in a single file. Its layers are those of the released model: some have one more than is used."""
    if path.suffix.lower() != ".safetensors":
        return TextEncoderSize(key)
    shapes = {
        name: shape for name, shape in safetensors_shapes(path).items() if name.startswith(start)
    }
    tables = [shape for name, shape in shapes.items() if name.endswith(TABLE) and len(shape) == 2]
    return TextEncoderSize(key, None, tables[0][1] if tables else None)
