"""Single files of Stable Diffusion 3 give the same model as the folder; broken ones say what is missing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coinage.checks.model import model_problems
from coinage.config import ModelConfig
from coinage.errors import CoinageError
from coinage.models.detect import kind_of_file
from coinage.models.families import FAMILIES
from coinage.models.hub_files import detect_family
from coinage.models.sizes import model_sizes
from coinage.models.text_encoder_sizes import text_encoder_sizes
from coinage.models.vocabulary import read_vocabularies
from tests.tiny_models import T5_WIDTH, loaded, original_sd3, t5_tokenizer

FAMILY = FAMILIES["sd3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "model.safetensors"
    save_file(original_sd3(), path)
    return path


@pytest.fixture
def caches(sd3: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tokenizers; the tiny model's settings stand for the released ones."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "sd3").symlink_to(sd3)
    monkeypatch.setattr("coinage.models.loading.CONFIGS", tmp_path / "configs")
    root = tmp_path / "models"
    root.mkdir()
    tokenizers = root / "tokenizers"
    tokenizers.mkdir()
    (tokenizers / "any").symlink_to(models / "tokenizers" / "any")
    t5_tokenizer().save_pretrained(tokenizers / "t5")
    return root


def without(file: Path, path: Path, start: str) -> Path:
    """The file without the tensors whose names begin so."""
    tensors = {name: t for name, t in load_file(file).items() if not name.startswith(start)}
    save_file(tensors, path)
    return path


def test_it_is_the_model_of_the_folder(file: Path, sd3: Path, caches: Path) -> None:
    assert detect_family(str(file)) == "sd3"
    one = loaded("sd3", file, caches)
    other = loaded("sd3", sd3, caches)
    with torch.no_grad():
        other.text_encoders[0].text_projection.weight.copy_(torch.eye(32))  # as released
    for ours, theirs in zip(one.modules(), other.modules(), strict=True):
        state, wanted = ours.state_dict(), theirs.state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in state.items())
    assert one.keys == other.keys
    assert one.schedule == other.schedule
    captions, sizes = ["a photo of zibu"], torch.zeros(1, 6)
    cond = FAMILY.encode(one, captions, sizes)
    wanted = FAMILY.encode(other, captions, sizes)
    assert torch.equal(cond.encoder_hidden_states, wanted.encoder_hidden_states)


def test_a_file_may_lack_t5(file: Path, caches: Path, tmp_path: Path) -> None:
    path = without(file, tmp_path / "a.safetensors", "text_encoders.t5xxl.")
    parts = loaded("sd3", path, caches)
    assert parts.keys == ("clip_l", "clip_g")
    model = ModelConfig(source=str(path), family="sd3")
    assert [size.key for size in text_encoder_sizes(model)] == ["clip_l", "clip_g"]


def test_its_header_shows_sizes_and_words(file: Path, caches: Path) -> None:
    model = ModelConfig(source=str(file), family="sd3", tokenizer_cache=caches / "tokenizers")
    assert [size.width for size in text_encoder_sizes(model)] == [32, 64, T5_WIDTH]
    assert model_sizes(model).from_model
    assert list(read_vocabularies(model)) == ["clip_l", "clip_g", "t5xxl"]


def test_a_file_without_clip_says_which_is_missing(file: Path, tmp_path: Path) -> None:
    path = without(file, tmp_path / "a.safetensors", "text_encoders.")
    (problem,) = model_problems(ModelConfig(source=str(path), family="sd3"))
    assert "without its text encoders clip_l and clip_g" in problem.what
    assert "give a file with them, or the diffusers folder" in problem.hint


def test_t5_in_fp8_is_refused(file: Path, caches: Path, tmp_path: Path) -> None:
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.startswith("text_encoders.t5xxl."):
            tensors[name] = tensor.to(torch.float8_e4m3fn)
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    (problem,) = model_problems(ModelConfig(source=str(path), family="sd3"))
    assert "T5 text encoder is in fp8: give one with T5 in fp16, or without T5" in problem.what
    with pytest.raises(CoinageError, match="T5 text encoder is in fp8"):
        loaded("sd3", path, caches)


@pytest.mark.parametrize(
    ("name", "what"),
    [("joint_blocks.0.a", "a transformer alone"), ("double_blocks.0.a", "a FLUX.1 model without")],
)
def test_other_files_say_what_they_are(name: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({name: torch.zeros(2)}, path)
    kind = kind_of_file(path)
    assert kind is not None
    assert kind.family is None
    assert what in kind.why_not


def test_missing_weights_are_told(file: Path, caches: Path, tmp_path: Path) -> None:
    start = "model.diffusion_model.context_embedder."
    path = without(file, tmp_path / "a.safetensors", start)
    with pytest.raises(CoinageError, match="the transformer lacks weights") as caught:
        loaded("sd3", path, caches)
    assert "context_embedder" in str(caught.value)
    start = "model.diffusion_model.joint_blocks.0.x_block.mlp.fc1."
    with pytest.raises(CoinageError, match="cannot load the model's transformer"):
        loaded("sd3", without(file, tmp_path / "b.safetensors", start), caches)
