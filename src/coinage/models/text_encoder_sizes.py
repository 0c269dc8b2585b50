"""Find the layers and widths of a model's text encoders in settings or headers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.detect import read_config, safetensors_shapes
from coinage.models.facts import FACTS, TextEncoderFacts, TextEncoderKind
from coinage.models.hub_files import local_path

# Ends of the names of token tables, by the kind of text encoder
TABLES: Mapping[TextEncoderKind, str] = {
    "clip": "token_embedding.weight",
    "projected": "token_embedding.weight",
    "t5": "shared.weight",
}


@dataclass(frozen=True, slots=True)
class TextEncoderSize:
    """Size of a text encoder; None is unknown."""

    key: str  # of its vectors in embedding files
    layers: int | None = None
    width: int | None = None  # of its token embeddings


def text_encoder_sizes(model: ModelConfig) -> list[TextEncoderSize]:
    """Return the sizes of a model's text encoders, as far as a folder's settings or a file's header say.

    Without settings, the number of layers is that of the family's released model.
    """
    path = local_path(model.source)
    sizes = []
    for facts in FACTS[model.family].text_encoders:
        if facts.optional and not has_encoder(model, facts):
            continue
        try:
            size = _of_file(path, facts) if path.is_file() else _of_settings(path, facts)
        except (CoinageError, OSError):  # what is broken is an error elsewhere
            size = TextEncoderSize(facts.key)
        sizes.append(size if size.layers is not None else replace(size, layers=facts.layers))
    return sizes


def check_clip_skip(model: ModelConfig, layers: int | None) -> None:
    """Check that `--clip_skip` counts back to a layer that a text encoder has.

    Args:
        model: with the flag.
        layers: of the text encoder; None if unknown.

    Raises:
        CoinageError: it has fewer.
    """
    if layers and model.clip_skip and model.clip_skip > layers:
        what = f"--clip_skip {model.clip_skip}: the text encoder has {layers} layers"
        raise CoinageError(what, model.source)


def has_encoder(model: ModelConfig, facts: TextEncoderFacts) -> bool:
    """Return whether a model comes with a text encoder; yes where its files are not here."""
    path = local_path(model.source)
    try:
        if path.is_file() and path.suffix.lower() == ".safetensors":
            return any(name.startswith(facts.prefix) for name in safetensors_shapes(path))
    except (CoinageError, OSError):  # what is broken is an error elsewhere
        return True
    return not path.is_dir() or any((path / facts.folder).glob("*.*"))


def _of_settings(folder: Path, facts: TextEncoderFacts) -> TextEncoderSize:
    """Return the size that a text encoder's settings in a diffusers folder name."""
    settings = read_config(folder / facts.folder / "config.json")
    return TextEncoderSize(
        facts.key,
        layers=_number(settings.get("num_hidden_layers", settings.get("num_layers"))),
        width=_number(settings.get("hidden_size", settings.get("d_model"))),
    )


def _number(value: object) -> int | None:
    """Return a setting that is a whole number, None for any other."""
    return value if isinstance(value, int) else None


def _of_file(path: Path, facts: TextEncoderFacts) -> TextEncoderSize:
    """Return the width of a text encoder in a single file.

    Its layers are those of the released model: some files have one more than is used.
    """
    if path.suffix.lower() == ".safetensors":
        for name, shape in safetensors_shapes(path).items():
            if (
                name.startswith(facts.prefix)
                and name.endswith(TABLES[facts.kind])
                and len(shape) == 2
            ):
                return TextEncoderSize(facts.key, width=shape[1])
    return TextEncoderSize(facts.key)
