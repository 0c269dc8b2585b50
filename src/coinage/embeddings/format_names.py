"""Names of formats and precisions of embedding files. Imports no torch, for command-line parsers."""

from __future__ import annotations

from typing import Literal, get_args

FormatName = Literal["safetensors", "pt", "diffusers", "onetrainer"]
Precision = Literal["float", "fp16", "bf16"]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
