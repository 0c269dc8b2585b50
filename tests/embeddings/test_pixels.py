"""Pictures that hold an embedding in their pixels alone, as AUTOMATIC1111 draws them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from coinage.cli.main import main
from coinage.embeddings.pairs import open_embedding
from coinage.embeddings.pixels import MOST_PIXELS, sequence
from coinage.errors import EmbeddingFileError
from tests.embeddings.files import drawn, picture_of, plain, vectors

Pixels = NDArray[np.uint8]
ROWS = vectors(2, 768)
# The sequence is public knowledge: its first numbers, and the sum of those from the 101st to the 100 100th.
FIRST = [
    253,
    242,
    127,
    44,
    157,
    27,
    239,
    133,
    38,
    79,
    167,
    4,
    177,
    95,
    130,
    79,
    78,
    14,
    52,
    215,
    220,
    194,
    126,
    28,
    240,
    179,
]
SUM = 12731374


def test_the_sequence_that_hides_the_bytes() -> None:
    found = sequence(100_100)
    assert found[: len(FIRST)].tolist() == FIRST
    assert int(found[100:].sum(dtype=np.int64)) == SUM
    assert [len(sequence(n)) for n in (1, 2, 3, 1000)] == [1, 2, 3, 1000]


def bordered(pixels: Pixels) -> Pixels:
    return np.pad(pixels, ((7, 3), (5, 9), (0, 0)))


def with_alpha(pixels: Pixels) -> Pixels:
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)


@pytest.mark.parametrize("change", [np.asarray, bordered, with_alpha])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_picture_without_its_text(
    suffix: str, change: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(change(picture_of(plain(ROWS)))).save(
        path, **({"lossless": True} if suffix == "webp" else {})
    )
    found = open_embedding(path)
    assert (found.layout, found.word.family, found.word.token, found.word.step) == (
        "G",
        "sd1",
        "pngtok",
        500,
    )
    assert torch.equal(found.word.vectors["emb_params"], ROWS)
    assert main(["convert", str(path), str(tmp_path / "b.safetensors")]) == 0
    assert torch.equal(open_embedding(tmp_path / "b.safetensors").word.vectors["emb_params"], ROWS)


GOOD = picture_of(plain(ROWS))
NO_EMBEDDING = "contains no embedding"


@pytest.mark.parametrize(
    ("suffix", "make", "told"),
    [
        ("png", lambda: drawn(GOOD[:, :, ::-1]), NO_EMBEDDING),
        ("png", lambda: drawn(GOOD[1:]), NO_EMBEDDING),
        ("png", lambda: drawn(GOOD[:, 1:]), NO_EMBEDDING),
        ("png", lambda: drawn(np.zeros((4, 4, 3), np.uint8)), NO_EMBEDDING),
        ("png", lambda: drawn(np.full((4, 4, 3), 255, np.uint8)), NO_EMBEDDING),
        ("png", lambda: drawn(GOOD)[:-400], NO_EMBEDDING),
        ("png", lambda: drawn(GOOD)[:40], NO_EMBEDDING),
        ("png", lambda: drawn(GOOD)[:10], NO_EMBEDDING),
        ("webp", lambda: drawn(GOOD, "webp", quality=95), NO_EMBEDDING),
        ("webp", lambda: drawn(GOOD, "webp", lossless=True)[:-100], NO_EMBEDDING),
        ("webp", lambda: drawn(GOOD, "webp", lossless=True)[:20], NO_EMBEDDING),
        ("png", lambda: drawn(picture_of(b"[" * 100_000)), "not an embedding"),
        ("png", lambda: drawn(picture_of(b'"words"')), "not an embedding"),
        ("png", lambda: drawn(picture_of(b"\xff\xfe")), "not an embedding"),
        # A bomb within the strips
        ("png", lambda: drawn(picture_of(b" " * 30_000_000)), NO_EMBEDDING),
        ("png", lambda: drawn(np.zeros((1, MOST_PIXELS + 1, 3), np.uint8)), NO_EMBEDDING),
    ],
)
def test_pictures_that_are_refused(
    suffix: str, make: Callable[[], bytes], told: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(make())
    with pytest.raises(EmbeddingFileError, match=told) as caught:
        open_embedding(path)
    assert caught.value.problems[0].where == str(path)
