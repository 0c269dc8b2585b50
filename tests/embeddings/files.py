"""Embedding files as other programs write them, and one that no program should."""

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Content = dict[str, Tensor]
Pixels = NDArray[np.uint8]


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
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensor},
        "name": "zibu",
        "step": 500,
        "sd_checkpoint": None,
    }
    return {key: value for key, value in (content | changes).items() if value is not ...}


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A picture of one pixel with more chunks."""
    pixel = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"IEND", b""),
    ]
    out = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in pixel
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(out)


def hidden(tensor: Tensor, name: str = "pngtok") -> bytes:
    """The text that AUTOMATIC1111 puts into a picture."""
    return base64.b64encode(plain(tensor, name))


def plain(tensor: Tensor, name: str = "pngtok") -> bytes:
    """The same, not encoded, as it lies in the pixels."""
    content = webui(tensor, name=name, string_to_param={"*": {"TORCHTENSOR": tensor.tolist()}})
    return json.dumps(content).encode()


def numbers() -> Iterator[int]:
    """The sequence that hides bytes in pixels."""
    state = 0
    while True:
        state = (state * 1664525 + 1013904223) % 2**32
        yield state % 255


def strip(halves: list[int], height: int) -> Pixels:
    """Half bytes, in rows of three colours, under noise in the upper half of each value."""
    size = -(-len(halves) // (3 * height)) * 3 * height
    filled = (halves * (size // len(halves) + 1))[:size]
    masked = [half ^ (number & 15) for half, number in zip(filled, numbers(), strict=False)]
    styled = (
        np.array(masked, dtype=np.uint8)
        | np.random.default_rng(0).integers(1, 16, size, dtype=np.uint8) << 4
    )
    return styled.reshape(height, -1, 3)


def picture_of(content: bytes, height: int = 96) -> Pixels:
    """[H, W, 3]: low halves, a black column, something drawn, a black column, high halves."""
    packed = zlib.compress(content, 9)
    middle = np.random.default_rng(1).integers(0, 256, (height, 40, 3), dtype=np.uint8)
    middle[:, 10:12] = 0  # the drawing may have black columns of its own
    black = np.zeros((height, 1, 3), dtype=np.uint8)
    low, high = (
        strip([byte & 15 for byte in packed], height),
        strip([byte >> 4 for byte in packed], height),
    )
    return np.concatenate([low, black, middle, black, high], axis=1)


def drawn(pixels: Pixels, kind: str = "png", **options: object) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def vectors(n: int, d: int) -> torch.Tensor:
    """Numbers that fp32, fp16 and bf16 hold exactly."""
    index = torch.arange(n * d).view(n, d)
    return (index % 251 - 125).float() / 1024


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)
