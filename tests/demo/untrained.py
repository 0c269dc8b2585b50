"""Untrained flow-matching worlds, written by the tools that make the shipped ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

TOOLS = Path(__file__).parents[2] / "tools"


@dataclass(frozen=True)
class Made:
    """An untrained world: the folder, and the parts that it was written from."""

    folder: Path
    parts: Any


@pytest.fixture(scope="module", autouse=True)
def tools() -> Iterator[None]:
    sys.path.insert(0, str(TOOLS))
    yield
    sys.path.remove(str(TOOLS))


def untrained_parts(folder: Path) -> Any:
    """Tokenizers (T5's in `folder`), text encoders with rows for secret words, an autoencoder."""
    import demo_flow_parts
    import demo_flow_texts
    import demo_tokenizer
    import demo_vae
    import demo_vae16

    torch.manual_seed(0)
    demo_tokenizer.build_t5_tokenizer(folder)
    tokenizers = demo_flow_texts.Tokenizers(folder)
    texts = demo_flow_texts.build_texts(tokenizers).eval()
    vae = demo_vae16.build_vae(demo_vae.to_float(demo_vae.pictures(4, 0)))
    vae.register_to_config(shift_factor=0.05)
    return demo_flow_parts.Parts(vae, texts, tokenizers, torch.empty(0), [])


def awaken(transformer: nn.Module) -> None:
    """Give what starts at zero other weights, in place, so that all of a model matters."""
    for name, parameter in transformer.named_parameters():
        if not parameter.any() and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.05)


def check_folder(folder: Path, most_bytes: int) -> None:
    """A shipped folder is small, in fp16, and says nothing of where it was made."""
    from safetensors import safe_open

    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= most_bytes
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            assert {file.get_slice(k).get_dtype() for k in file.keys()} == {"F16"}  # noqa: SIM118
    for path in folder.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8")
