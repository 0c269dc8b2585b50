"""Words with vectors for T5: read under both names, written under the one that tools take."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from coinage.cli.main import main
from coinage.embeddings.reading import open_file
from coinage.embeddings.tools import verdicts
from coinage.embeddings.word import Word
from coinage.errors import CoinageError
from coinage.models.facts import SD3, family_of_vectors

WIDTHS = {"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}


def rows(*keys: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn(2, WIDTHS.get(key, 4096)) for key in keys}


def written(path: Path, tensors: dict[str, Tensor], **header: str) -> Path:
    safetensors.torch.save_file(tensors, path, header or None)
    return path


@pytest.mark.parametrize("name", ["t5", "t5xxl"])
def test_both_names_are_read(name: str, tmp_path: Path) -> None:
    tensors = rows("clip_l", "clip_g", name)
    opened = open_file(written(tmp_path / "a.safetensors", tensors))
    assert opened.layout == ("OT" if name == "t5" else "S3")
    assert opened.word.family == "sd3"
    assert torch.equal(opened.word.vectors["t5xxl"], tensors[name])


def test_a_file_for_onetrainer_has_its_name_and_comes_back(tmp_path: Path) -> None:
    tensors = rows("clip_l", "clip_g", "t5xxl")
    file = written(tmp_path / "a.safetensors", tensors)
    theirs, back = tmp_path / "theirs.safetensors", tmp_path / "back.safetensors"
    assert main(["convert", str(file), str(theirs), "--to", "onetrainer"]) == 0
    held = safetensors.torch.load_file(theirs)
    assert sorted(held) == ["clip_g", "clip_l", "t5"]
    assert main(["convert", str(theirs), str(back)]) == 0
    again = safetensors.torch.load_file(back)
    assert sorted(again) == ["clip_g", "clip_l", "t5xxl"]
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_a_file_without_bigg_is_mended_as_well(tmp_path: Path) -> None:
    tensors = rows("clip_l", "t5")
    file, mended = written(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors"
    assert main(["convert", str(file), str(mended)]) == 0
    held = safetensors.torch.load_file(mended)
    assert sorted(held) == ["clip_l", "t5xxl"]
    assert Word.load(mended).family == "flux"
    assert (
        main(["convert", str(mended), str(tmp_path / "c.safetensors"), "--to", "onetrainer"]) == 0
    )
    assert sorted(safetensors.torch.load_file(tmp_path / "c.safetensors")) == ["clip_l", "t5"]


def test_diffusers_files_are_refused(tmp_path: Path) -> None:
    word = Word(rows("clip_l", "clip_g", "t5xxl"), "zibu")
    with pytest.raises(CoinageError, match="diffusers loads no words into Stable Diffusion 3"):
        word.save(tmp_path / "a.safetensors", to="diffusers")


def test_who_loads_what(tmp_path: Path) -> None:
    file = written(tmp_path / "zibu.safetensors", rows("clip_l", "clip_g", "t5xxl"))
    found = {one.tool: one for one in verdicts(file, "sd3", SD3.widths)}
    taken = {tool: tuple(one.vectors) for tool, one in found.items() if one.loads}
    whole, clip = ("clip_l", "clip_g", "t5xxl"), ("clip_l", "clip_g")
    assert taken == {
        "AUTOMATIC1111": clip, "Forge": clip, "ComfyUI": whole, "SwarmUI": whole
    }  # fmt: skip
    assert "leaves out the vectors for T5" in found["AUTOMATIC1111"].why
    assert found["SD.Next"].why == "It loads words for 1.x, 2.x and SDXL alone."
    theirs = written(tmp_path / "t5.safetensors", rows("clip_l", "clip_g", "t5"))
    found = {one.tool: one for one in verdicts(theirs, "sd3", SD3.widths)}
    assert tuple(found["OneTrainer"].vectors) == whole
    assert tuple(found["ComfyUI"].vectors) == clip


def test_the_header_tells_a_word_for_clip_alone_from_one_of_sdxl(tmp_path: Path) -> None:
    tensors, name = rows("clip_l", "clip_g"), "stable-diffusion-3/textual-inversion"
    assert Word.load(written(tmp_path / "a.safetensors", tensors)).family == "sdxl"
    header = {"modelspec.architecture": name}
    assert Word.load(written(tmp_path / "b.safetensors", tensors, **header)).family == "sd3"
    assert family_of_vectors({"emb_params": 768}, name) is not None


def test_output_vectors_of_t5_are_left_out(tmp_path: Path) -> None:
    tensors = rows("clip_l", "clip_g", "t5") | {"t5_out": torch.ones(2, 4096)}
    opened = open_file(written(tmp_path / "a.safetensors", tensors))
    assert sorted(opened.word.vectors) == ["clip_g", "clip_l", "t5xxl"]
    assert opened.layout == "OT"
