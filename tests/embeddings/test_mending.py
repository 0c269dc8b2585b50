"""Words brought back to a known word: their length, and their direction."""

from pathlib import Path

import pytest
import torch

from coinage.cli.main import main
from coinage.config import ModelConfig
from coinage.embeddings.mending import ADJUSTED, adjusted
from coinage.embeddings.reading import read
from coinage.embeddings.sphere import are_opposite, between
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.errors import CoinageError
from coinage.models.vocabulary import Vocabulary, read_vocabularies
from coinage.training.final_check import mending_offer
from tests.embeddings.files import tensors
from tests.embeddings.test_file import vectors
from tests.helpers import trained

EAST, NORTH = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 10.0]])


def degrees(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    cosines = torch.cosine_similarity(a.double(), b.double(), dim=1).clamp(-1, 1)
    return [float(angle) for angle in cosines.acos().rad2deg()]


def vocabulary(models: Path, family: str, key: str) -> Vocabulary:
    return read_vocabularies(ModelConfig(source=str(models / family), family=family))[key]


@pytest.mark.parametrize(("keep", "angle"), [(1.0, 90), (0.8, 72), (0.5, 45), (0.0, 0)])
def test_the_length_goes_and_a_share_of_the_angle_stays(keep: float, angle: float) -> None:
    found = adjusted(Word({"emb_params": NORTH}), {"emb_params": EAST}, keep).vectors["emb_params"]
    assert degrees(found, EAST) == pytest.approx([angle], abs=1e-3)
    assert float(found.norm()) == pytest.approx(2), "as long as the known word"
    assert found.dtype == torch.float32


def test_what_has_no_direction_or_no_way() -> None:
    nothing = Word({"emb_params": torch.zeros(1, 2)})
    assert not adjusted(nothing, {"emb_params": EAST}, 0.8).vectors["emb_params"].any()
    away = Word({"emb_params": -EAST})
    with pytest.raises(CoinageError, match="points away from this word"):
        adjusted(away, {"emb_params": EAST}, 0.8)
    only_shorter = adjusted(away, {"emb_params": EAST}, 1.0).vectors["emb_params"]
    assert torch.allclose(only_shorter, -EAST), "its length alone needs no way"


def test_directions_between_others() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.1], [0.0, 5.0]])
    assert not are_opposite(a, b)
    assert are_opposite(a, -a)
    third = between(a, b, 1 / 3)
    assert degrees(third, a) == pytest.approx([30, 0], abs=1e-4)
    assert third.norm(dim=1).tolist() == pytest.approx([1, 1])


def convert(*argv: object) -> int:
    return main(["convert", *map(str, argv)])


def test_the_command_mends_a_word_of_any_tool(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "zibu.pt", tmp_path / "mended.safetensors"
    write(source, Word({"emb_params": 30 * vectors(3, 32)}, "zibu"))
    words = vocabulary(models, "sd1", "emb_params")
    assert convert(source, out, "--adjust=shape", f"--model={models / 'sd1'}") == 0
    assert "as shape" in capsys.readouterr().err
    mended = read(out)
    (number,) = words.tokenizer.encode("shape", add_special_tokens=False)
    known = words.table[[number] * 3]
    assert mended.metadata[ADJUSTED] == "shape, keep 0.9"
    assert torch.allclose(mended.vectors["emb_params"].norm(dim=1), known.norm(dim=1))
    before = degrees(read(source).vectors["emb_params"], known)
    after = degrees(mended.vectors["emb_params"], known)
    assert after == pytest.approx([0.9 * angle for angle in before], abs=1e-3)
    assert mended.token == "zibu"


def test_both_text_encoders_and_a_lone_half(tmp_path: Path, models: Path) -> None:
    pair = {"clip_l": 9 * vectors(2, 32), "clip_g": 9 * vectors(2, 64)}
    write(tmp_path / "pair.safetensors", Word(pair, "zibu"))
    given = ("--adjust=shape", "--keep=0", f"--model={models / 'sdxl'}")
    assert convert(tmp_path / "pair.safetensors", tmp_path / "out.safetensors", *given) == 0
    for key, rows in read(tmp_path / "out.safetensors").vectors.items():
        words = vocabulary(models, "sdxl", key)
        (number,) = words.tokenizer.encode("shape", add_special_tokens=False)
        assert torch.allclose(rows, words.table[[number] * 2], atol=1e-6)
    half = tensors(tmp_path / "half.safetensors", {"clip_l": vectors(2, 32)})
    given = ("--adjust=shape", f"--model={models / 'sd1'}")
    assert convert(half, tmp_path / "one.safetensors", *given) == 0
    assert list(read(tmp_path / "one.safetensors").vectors) == ["emb_params"]


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (["--adjust=shape"], 2, "--adjust needs --model"),
        (["--keep=0.5"], 2, "--keep needs --adjust INIT_WORD"),
        (["--adjust=shape", "--keep=1.1", "--model=sd1"], 2, "use 0 to 1"),
        (["--adjust=shape", "--keep=nan", "--model=sd1"], 2, "use 0 to 1"),
        (["--adjust=shape", "--rescale=0.4", "--model=sd1"], 2, "leave out --rescale"),
        (["--adjust=", "--model=sd1"], 1, "has no tokens"),
        (["--adjust=shape", "--model=sdxl"], 1, "the word is for emb_params 32 wide"),
        (["--adjust=shape", "--model=nowhere"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_mended(
    given: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    models: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / "a.safetensors", Word({"emb_params": vectors(2, 32)}, "zibu"))
    placed = [flag.replace("--model=", f"--model={models}/") for flag in given]
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", *placed) == code
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not (tmp_path / "b.safetensors").exists()


def test_a_run_offers_it_for_long_vectors_only(moon_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "zibu.safetensors"
    quiet, _ = trained(moon_dataset, tmp_path)
    assert mending_offer(quiet, path) == ""
    loud, _ = trained(moon_dataset, tmp_path, "--learning_rate=5")
    offer = mending_offer(loud, path)
    assert "times as long as the model's longest word" in offer
    assert f"{tmp_path / 'zibu-mended.safetensors'} --adjust shape --model" in offer
