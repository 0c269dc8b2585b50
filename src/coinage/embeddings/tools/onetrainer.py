"""OneTrainer, which continues the training of a word."""

from __future__ import annotations

from coinage.embeddings.raw_file import RawFile
from coinage.embeddings.tools.rules import (
    OTHER_FAMILY,
    TargetModel,
    ToolReading,
    check_width,
    content_of,
    refuse,
)
from coinage.models.facts import ONETRAINER_NAMES

SUFFIXES = (".safetensors", ".pt", ".ckpt", ".bin")
WHERE_THE_WORD_IS_SET = "The word is the placeholder text that you set there."


def onetrainer(file: RawFile, model: TargetModel, token: str | None) -> ToolReading:
    """Apply OneTrainer's rule: its own keys `emp_params` and `t5`, and SDXL's pair."""
    content = content_of(file, SUFFIXES)
    by_key = {}
    for key, width in zip(model.keys, model.widths, strict=True):
        name = ONETRAINER_NAMES.get(key, key)
        if not isinstance(content, dict) or name not in content:
            what_to_do = (
                "convert the file for OneTrainer" if key in ONETRAINER_NAMES else OTHER_FAMILY
            )
            refuse(f"it looks for a tensor named {name}; {what_to_do}.")
        check_width(content[name], width)
        by_key[key] = content[name]
    has_output_vectors = any(
        f"{name}_out" in content for name in (*ONETRAINER_NAMES.values(), *model.keys)
    )
    return ToolReading(
        by_key,
        token or file.path.stem,
        WHERE_THE_WORD_IS_SET,
        reads_output_vectors=has_output_vectors,
    )
