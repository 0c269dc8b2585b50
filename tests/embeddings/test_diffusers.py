"""Our files in diffusers itself, and what we say of diffusers compared with what it does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from coinage.demo.run import MODEL
from coinage.embeddings.tools import Verdict, verdicts
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from tests.embeddings.layouts import ONE, PAIR, vectors, webui, write_layout
from tests.tiny_models import clip_config, parts_of

WIDTHS = {"sd1": (32,), "sd2": (48,), "sdxl": (32, 64)}
KEYS = {"sd1": ("emb_params",), "sd2": ("emb_params",), "sdxl": ("clip_l", "clip_g")}
WORD = "zzq"


@pytest.fixture(scope="module")
def bodies() -> dict[str, Any]:
    """What loading an embedding leaves as it is."""
    parts = parts_of("sd1")
    assert isinstance(parts["unet"], UNet2DConditionModel)
    assert isinstance(parts["vae"], AutoencoderKL)
    return {
        "unet": parts["unet"],
        "vae": parts["vae"],
        "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
    }


def pipeline(family: str, bodies: dict[str, Any]) -> Any:
    """A pipeline with new text encoders and tokenizers; sizes of its U-Net do not matter here."""
    torch.manual_seed(0)
    tokenizers = [CLIPTokenizer.from_pretrained(MODEL / "tokenizer") for _ in WIDTHS[family]]
    first = CLIPTextModel(clip_config(WIDTHS[family][0], 2, "quick_gelu", 32))
    if family == "sdxl":
        second = CLIPTextModelWithProjection(clip_config(WIDTHS[family][1], 2, "gelu", 64))
        two = {"text_encoder_2": second, "tokenizer_2": tokenizers[1]}
        return StableDiffusionXLPipeline(
            **bodies, text_encoder=first, tokenizer=tokenizers[0], **two
        )
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**bodies, text_encoder=first, tokenizer=tokenizers[0], **none)


def encoders(pipe: Any) -> list[tuple[Any, Any]]:
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    return (
        [*pairs, (pipe.tokenizer_2, pipe.text_encoder_2)] if hasattr(pipe, "tokenizer_2") else pairs
    )


def load_halves(pipe: Any, content: dict[str, torch.Tensor], token: str) -> None:
    for key, (tokenizer, encoder) in zip(("clip_l", "clip_g"), encoders(pipe), strict=True):
        pipe.load_textual_inversion(
            content[key], token=token, text_encoder=encoder, tokenizer=tokenizer
        )


def load(pipe: Any, path: Path, token: str, *, by_halves: bool) -> None:
    if by_halves:
        load_halves(
            pipe,
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True),
            token,
        )
    else:
        pipe.load_textual_inversion(str(path), token=token)


def added(pipe: Any, token: str) -> list[torch.Tensor]:
    """The rows of the word in each text encoder."""
    found = []
    for tokenizer, encoder in encoders(pipe):
        vocabulary = tokenizer.get_vocab()
        names = [
            name for name in (token, *(f"{token}_{i}" for i in range(1, 9))) if name in vocabulary
        ]
        found.append(
            encoder.get_input_embeddings().weight.detach()[[vocabulary[name] for name in names]]
        )
    return found


def own_file(folder: Path, family: str, suffix: str = ".safetensors", n: int = 3) -> Path:
    tensors = {
        key: vectors(n, width) for key, width in zip(KEYS[family], WIDTHS[family], strict=True)
    }
    write(folder / f"{WORD}{suffix}", Word(tensors, WORD, 7, {"note": "x"}))
    return folder / f"{WORD}{suffix}"


def verdict_of(path: Path, family: str, token: str | None = None) -> Verdict:
    return next(
        verdict
        for verdict in verdicts(path, family, WIDTHS[family], token)
        if verdict.tool == "diffusers"
    )


@pytest.mark.parametrize("made_for", WIDTHS)
@pytest.mark.parametrize("family", WIDTHS)
def test_we_say_what_diffusers_does(
    made_for: str, family: str, bodies: dict[str, Any], tmp_path: Path
) -> None:
    """Every layout in every family, with `token=`: whether it loads, and the vectors."""
    pipe = pipeline(family, bodies)
    for i, layout in enumerate(PAIR if made_for == "sdxl" else ONE):
        path, token = write_layout(tmp_path, layout, WIDTHS[made_for]), f"{WORD}{chr(97 + i)}"
        ours = verdict_of(path, family, token)
        try:
            load(pipe, path, token, by_halves=made_for == family == "sdxl")
        except Exception:  # noqa: BLE001 - whatever it raises, it does not load
            loads = False
        else:
            loads = True
        assert ours.loads == loads, (layout, ours.why)
        if not loads:
            continue
        theirs = [rows for rows in added(pipe, token) if len(rows)]
        assert len(theirs) == len(ours.vectors), layout
        for rows, key in zip(theirs, KEYS[family], strict=False):
            assert torch.equal(rows, ours.vectors[key]), layout


@pytest.mark.parametrize("layout", ONE)
def test_the_word_without_a_token(layout: str, bodies: dict[str, Any], tmp_path: Path) -> None:
    """Without `token=`, what is loaded is called as we say, or we say that it must be given."""
    path, pipe = write_layout(tmp_path, layout, WIDTHS["sd1"]), pipeline("sd1", bodies)
    ours = verdict_of(path, "sd1")
    try:
        pipe.load_textual_inversion(str(path))
    except Exception:  # noqa: BLE001 - whatever it raises, it does not load
        assert not ours.loads or "Pass token=" in ours.why
        return
    assert ours.loads
    as_said = len(added(pipe, ours.write)[0]) == len(ours.vectors["emb_params"])
    assert as_said != ("Pass token=" in ours.why), ours


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_our_safetensors(family: str, bodies: dict[str, Any], tmp_path: Path) -> None:
    pipe, path = pipeline(family, bodies), own_file(tmp_path, family)
    pipe.load_textual_inversion(str(path), token=WORD)
    assert torch.equal(added(pipe, WORD)[0], vectors(3, *WIDTHS[family]))
    size = len(CLIPTokenizer.from_pretrained(MODEL / "tokenizer"))
    ids = pipe.tokenizer(pipe.maybe_convert_prompt(f"photo {WORD}, dog", pipe.tokenizer)).input_ids
    assert [i for i in ids if i >= size] == [size, size + 1, size + 2]
    assert ids[ids.index(size) : ids.index(size) + 3] == [size, size + 1, size + 2]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_our_sdxl_files_go_in_by_halves(
    suffix: str, bodies: dict[str, Any], tmp_path: Path
) -> None:
    pipe, path = pipeline("sdxl", bodies), own_file(tmp_path, "sdxl", suffix)
    with pytest.raises(ValueError, match="state dict"):
        pipe.load_textual_inversion(str(path), token=WORD)
    with torch.no_grad():
        before = pipe.encode_prompt(f"a {WORD}", device="cpu", do_classifier_free_guidance=False)
        load(pipe, path, WORD, by_halves=True)
        after = pipe.encode_prompt(f"a {WORD}", device="cpu", do_classifier_free_guidance=False)
    first, second = (
        tokenizer(pipe.maybe_convert_prompt(f"a {WORD}", tokenizer)).input_ids
        for tokenizer, _ in encoders(pipe)
    )
    assert first == second
    assert not torch.allclose(before[0][..., :32], after[0][..., :32])
    assert not torch.allclose(before[0][..., 32:], after[0][..., 32:])
    assert [
        torch.equal(rows, vectors(3, width))
        for rows, width in zip(added(pipe, WORD), WIDTHS["sdxl"], strict=True)
    ] == [True, True]


def test_capitals_lose_all_vectors_but_the_first(bodies: dict[str, Any], tmp_path: Path) -> None:
    """The trap that the naming rules warn of. When diffusers mends it, this fails, and the warning can go."""
    pipe, path = pipeline("sd1", bodies), own_file(tmp_path, "sd1")
    pipe.load_textual_inversion(str(path), token="ZzQ")
    assert len(added(pipe, "ZzQ")[0]) == 3
    size = len(CLIPTokenizer.from_pretrained(MODEL / "tokenizer"))
    ids = pipe.tokenizer(pipe.maybe_convert_prompt("photo ZzQ, dog", pipe.tokenizer)).input_ids
    assert [i for i in ids if i >= size] == [size]
    assert "first of its 3 vectors" in verdict_of(path, "sd1", "ZzQ").why


@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
def test_our_pt_carries_its_word(suffix: str, bodies: dict[str, Any], tmp_path: Path) -> None:
    pipe, path = pipeline("sd1", bodies), own_file(tmp_path, "sd1", suffix)
    pipe.load_textual_inversion(str(path))
    assert torch.equal(added(pipe, WORD)[0], vectors(3, 32))
    ours = verdict_of(path, "sd1")
    assert (ours.write, ours.why) == (WORD, "")


@pytest.mark.parametrize(
    "change", [{"name": None}, {"name": "gone"}, {"string_to_param": {"sks": vectors(1, 32)}}]
)
def test_dictionaries_that_lack_something(
    change: dict[str, Any], bodies: dict[str, Any], tmp_path: Path
) -> None:
    content = webui(vectors(1, 32)) | change
    if content["name"] == "gone":
        del content["name"]
    torch.save(content, tmp_path / "a.pt")
    pipe, ours = pipeline("sd1", bodies), verdict_of(tmp_path / "a.pt", "sd1", WORD)
    try:
        pipe.load_textual_inversion(str(tmp_path / "a.pt"), token=WORD)
        assert ours.loads
    except KeyError:
        assert not ours.loads
        assert "needs a name and string_to_param" in ours.why
