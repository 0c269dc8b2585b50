"""Encodings that do not depend on the new word: the same answers, computed once, also between runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coinage.cli.parse import parse
from coinage.embeddings.word import Word
from coinage.models.families import FAMILIES, Components, Conditioning
from coinage.models.text_cache import FOLDER, TextCache, encode
from coinage.settings.discover import complete
from coinage.settings.idle_flags import notes
from coinage.system.tensor_files import pack, unpack
from tests.data.pictures import picture
from tests.helpers import trained
from tests.models.test_families import family_flags
from tests.tiny_models import FAMILY_NAMES, loaded

CAPTIONS = ["a zibu", "a red circle", "", "a red circle", "zibu and zibu1"]
SIZES = torch.arange(30).reshape(5, 6)


class Counted:
    """A family that tells what it was asked to encode."""

    def __init__(self, name: str) -> None:
        self._family = FAMILIES[name]
        self.asked: list[str] = []

    def encode(
        self, parts: Components, captions: Sequence[str], sizes: Tensor, **more: Any
    ) -> Conditioning:
        self.asked += captions
        return self._family.encode(parts, captions, sizes, **more)

    def encode_ids(self, parts: Components, ids: Sequence[Tensor], sizes: Tensor) -> Conditioning:
        known = {str(parts.token_ids([caption])[0].tolist()): caption for caption in CAPTIONS}
        self.asked += [known[str([row])] for row in ids[0].tolist()]
        return self._family.encode_ids(parts, ids, sizes)


def tensors(cond: Conditioning) -> list[Tensor]:
    return [t for t in (cond.encoder_hidden_states, cond.pooled, cond.time_ids) if t is not None]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_what_is_kept_changes_nothing(name: str, models: Path, tmp_path: Path) -> None:
    parts = loaded(name, models / name, models)
    plain = FAMILIES[name].encode(parts, CAPTIONS, SIZES)
    (gradient,) = torch.autograd.grad(plain.encoder_hidden_states.square().sum(), parts.rows()[:1])
    for folder in (None, tmp_path, tmp_path):  # made; made and written; read
        parts.text_cache = TextCache(folder)
        for _ in range(2):
            kept = encode(FAMILIES[name], parts, CAPTIONS, SIZES)
            assert len(tensors(kept)) == len(tensors(plain)) == (3 if name == "sdxl" else 1)
            for mine, other in zip(tensors(kept), tensors(plain), strict=True):
                torch.testing.assert_close(mine, other)
            (own,) = torch.autograd.grad(
                kept.encoder_hidden_states.square().sum(), parts.rows()[:1]
            )
            torch.testing.assert_close(own, gradient)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_only_captions_with_the_word_are_encoded_again(
    name: str, models: Path, tmp_path: Path
) -> None:
    parts = loaded(name, models / name, models)
    parts.text_cache = TextCache(tmp_path)
    family: Any = Counted(name)
    encode(family, parts, CAPTIONS, SIZES)
    assert sorted(family.asked) == ["", "a red circle", "a zibu", "zibu and zibu1"]
    family.asked.clear()
    encode(family, parts, CAPTIONS, SIZES)
    assert family.asked == ["a zibu", "zibu and zibu1"]
    assert len(list(tmp_path.iterdir())) == 2
    again = loaded(name, models / name, models)
    again.text_cache = TextCache(tmp_path)
    family.asked.clear()
    encode(family, again, ["a red circle"], SIZES[:1])
    assert not family.asked


def test_what_would_differ_is_not_found(models: Path, tmp_path: Path) -> None:
    def asked(source: str = "sd1", **more: Any) -> list[str]:
        parts = loaded("sd1", models / source, models, **more)
        parts.text_cache = TextCache(tmp_path)
        family: Any = Counted("sd1")
        encode(family, parts, ["a red circle"], SIZES[:1])
        return list(family.asked)

    assert asked() == ["a red circle"]
    assert asked() == []
    assert asked(clip_skip=2) == ["a red circle"]
    assert asked(max_token_length=150) == ["a red circle"]
    assert asked("sd2") == ["a red circle"]  # other weights
    with torch.autocast("cpu", torch.bfloat16):
        assert asked() == ["a red circle"]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert asked() == ["a red circle"], "a broken file is made anew"
    assert asked() == []


def test_a_full_disk_costs_only_the_files(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts = loaded("sd1", models / "sd1", models)
    (tmp_path / "file").write_text("no folder")
    parts.text_cache = TextCache(tmp_path / "file")
    family: Any = Counted("sd1")
    for _ in range(2):
        encode(family, parts, ["a red circle", "a dot"], SIZES[:2])
    assert family.asked == ["a red circle", "a dot"]
    assert caplog.text.count("encodings of captions cannot be saved") == 1


def with_regularisation(root: Path) -> Path:
    """Images of the word, and as many of its class."""
    for i in range(2):
        picture(root / "own" / f"{i}.png", (64, 64), "red", caption="a zibu")
        picture(root / "reg" / f"{i}.png", (64, 64), "green", caption="a circle" if i else "a dot")
    subsets = [
        f'[[datasets.subsets]]\nimage_dir = "{root / name}"\nis_reg = {str(name == "reg").lower()}'
        for name in ("own", "reg")
    ]
    text = "\n".join(
        [
            '[general]\ncaption_extension = ".txt"\n[[datasets]]\nresolution = 64\nbatch_size = 1',
            *subsets,
        ]
    )
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    return root / "dataset.toml"


def test_training_is_the_same_and_says_what_is_kept(models: Path, tmp_path: Path) -> None:
    dataset = with_regularisation(tmp_path / "data")

    def word(out: str, *more: str) -> Word:
        argv = family_flags(
            "sdxl",
            models / "sdxl",
            dataset,
            tmp_path / out,
            models,
            "--gradient_checkpointing",
            "--max_train_steps=4",
            *more,
        )
        args = parse("sdxl", argv, "test")
        told = [note for note in notes(args) if "since the gradient flows through them" in note]
        assert len(told) == bool(more)
        return trained(dataset, tmp_path / out, config=complete(args)[0])[1]

    plain = word("plain")
    for more in (["--cache_text_encoder_outputs"], ["--cache_text_encoder_outputs_to_disk"]):
        for _ in range(2):
            kept = word("kept", *more)
            for key, rows in plain.vectors.items():
                torch.testing.assert_close(kept.vectors[key], rows, rtol=0, atol=1e-6)
    assert len(list((tmp_path / "data" / "own" / FOLDER).iterdir())) == 2


def test_a_file_tells_when_it_is_not_whole() -> None:
    data = pack({"a": torch.arange(3.0)}, {"format": "x 1", "more": "y"})
    found = unpack(data, "x 1")
    assert not isinstance(found, str)
    assert torch.equal(found[0]["a"], torch.arange(3.0))
    assert found[1]["more"] == "y"
    assert unpack(data, "x 2") == "the file has another format"
    for broken in (b"", data[:-1], data[:20], data[:-1] + b"\x7f", data.replace(b"y", b"z")):
        assert unpack(broken, "x 1") == "the file is broken"
