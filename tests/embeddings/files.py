"""Embedding files as other programs write them, and one that no program should."""

import base64
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

Content = dict[str, Tensor]


def tensors(path: Path, content: Content, **metadata: str) -> Path:
    safetensors.torch.save_file({k: v.clone() for k, v in content.items()}, path, metadata or None)
    return path


def pickle(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def parameter_dict(tensor: Tensor, name: str = "*") -> torch.nn.ParameterDict:
    return torch.nn.ParameterDict({name: torch.nn.Parameter(tensor)})


def webui(tensor: Tensor, **changes: object) -> dict[str, object]:
    """AUTOMATIC1111's dictionary; a change to ... leaves a key out."""
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": tensor}, "name": "zibu", "step": 500, "sd_checkpoint": None}
    return {key: value for key, value in (content | changes).items() if value is not ...}


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A picture of one pixel with more chunks."""
    pixel = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    out = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pixel]
    return b"\x89PNG\r\n\x1a\n" + b"".join(out)


def hidden(tensor: Tensor, name: str = "pngtok") -> bytes:
    """The text that AUTOMATIC1111 puts into a picture."""
    content = webui(tensor, name=name, string_to_param={"*": {"TORCHTENSOR": tensor.tolist()}})
    return base64.b64encode(json.dumps(content).encode())


def vectors(n: int, d: int) -> torch.Tensor:
    """Numbers that fp32, fp16 and bf16 hold exactly."""
    index = torch.arange(n * d).view(n, d)
    return (index % 251 - 125).float() / 1024


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)
