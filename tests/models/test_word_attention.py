"""Where words act: the maps are right, whatever computes the attention, and change no picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coinage.generate import Drawn, draw, draw_with_maps
from coinage.models.attention import use_plain_attention
from coinage.models.base import Components
from coinage.models.cpu_attention import CpuAttention
from coinage.models.eight_bit import keep_in_eight_bits
from coinage.models.families import FAMILIES
from coinage.models.fewer_kernels import join_kernels
from coinage.models.word_attention import (
    WordAttention,
    attention_to,
    cross_attention,
    find_words,
    size_of,
    watched,
)
from coinage.text.prompts import Prompt
from tests.tiny_models import FAMILY_NAMES, loaded

pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")
LONG = "a photo of " + "red " * 74 + "zibu"  # the word lies in the second chunk
PROMPT = Prompt(text="a (red:1.2) zibu", width=64, height=96, seed=5, steps=2, scale=4)


def drawn(name: str, parts: Components, prompts: Sequence[Prompt], batch: int = 1) -> list[Drawn]:
    return list(draw_with_maps(FAMILIES[name], parts, prompts, batch))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_pictures_are_the_same_and_a_map_depends_on_its_prompt_alone(
    name: str, models: Path
) -> None:
    parts = loaded(name, models / name, models)
    prompts = [
        PROMPT,
        replace(PROMPT, text="a red circle"),
        replace(PROMPT, text="a blue zibu and a zibu"),
    ]
    shown = drawn(name, parts, prompts, 3)
    plain = list(draw(FAMILIES[name], parts, prompts, 3))
    for one, picture in zip(shown, plain, strict=True):
        assert np.array_equal(one.pixels, picture), "to the bit"
    assert [list(one.word_maps) for one in shown] == [["zibu"], [], ["zibu"]]
    first = shown[0].word_maps["zibu"]
    side = (6, 4) if name == "sdxl" else (12, 8)  # of the finest layer that reads the text
    assert (first.shape, first.dtype) == (side, np.float32)
    assert first.mean() == pytest.approx(1, abs=1e-5)
    assert first.std() > 0
    (alone,) = drawn(name, parts, prompts[:1])
    np.testing.assert_allclose(first, alone.word_maps["zibu"], rtol=1e-3)
    assert not np.allclose(first, shown[2].word_maps["zibu"], rtol=1e-3)


@pytest.mark.parametrize(
    "way", ["joined kernels", "eight bits", "plain attention", "own attention"]
)
def test_whatever_computes_the_attention_gives_the_same_map(way: str, models: Path) -> None:
    parts = loaded("sd1", models / "sd1", models)
    (due,) = drawn("sd1", parts, [PROMPT])
    if way == "joined kernels":
        join_kernels(parts.denoiser)
    elif way == "eight bits":
        keep_in_eight_bits(parts.denoiser)
    elif way == "plain attention":
        use_plain_attention(parts)
    else:
        parts.denoiser.set_attn_processor(CpuAttention())
    (found,) = drawn("sd1", parts, [PROMPT])
    (picture,) = draw(FAMILIES["sd1"], parts, [PROMPT])
    assert np.array_equal(found.pixels, picture)
    close = 0.05 if way == "eight bits" else 1e-3
    np.testing.assert_allclose(found.word_maps["zibu"], due.word_maps["zibu"], rtol=close)
    assert all(not layer.to_q._forward_hooks for layer in cross_attention(parts.denoiser))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_word_is_found_in_every_chunk(name: str, models: Path) -> None:
    """The positions are those at which the text's encoding changes first when the word changes."""
    family = FAMILIES[name]
    parts = replace(loaded(name, models / name, models), chunks=2)
    (place,) = find_words(family, parts, [LONG], [])
    assert (place.text, place.word, place.row) == (0, "zibu", -1)
    assert place.tokens.sum() == 2, "two vectors"
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64]])
    before = family.encode(parts, [LONG], sizes, weighted=True).encoder_hidden_states
    with torch.no_grad():
        for rows in parts.rows():
            rows.add_(1)
    after = family.encode(parts, [LONG], sizes, weighted=True).encoder_hidden_states
    changed = (before - after).abs().amax((0, 2)) > 1e-6
    first = int(changed.int().argmax())  # an encoder reads from left to right, chunk by chunk
    assert place.tokens.nonzero().flatten().tolist() == [first, first + 1]
    (one,) = drawn(name, parts, [replace(PROMPT, text=LONG)])
    assert one.word_maps["zibu"].std() > 0


def test_a_word_of_the_negative_prompt_acts_where_there_is_guidance(models: Path) -> None:
    parts = loaded("sd1", models / "sd1", models)
    asked = replace(PROMPT, text="a photo", negative="zibu")
    guided, unguided = drawn("sd1", parts, [asked, replace(asked, scale=1)])
    assert (list(guided.word_maps), list(unguided.word_maps)) == (["zibu"], [])
    (both,) = find_words(FAMILIES["sd1"], parts, ["zibu"], ["zibu"])
    assert both.row == -1, "the prompt's own comes first"
    (negative,) = find_words(FAMILIES["sd1"], parts, ["a photo"], ["zibu"])
    assert negative.row == -2


def test_attention_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, length, 12, generator=generator) for length in (6, 5))
    tokens = torch.tensor([[0.0, 1, 0, 1, 0], [1.0, 0, 0, 0, 0]])
    due = torch.zeros(2, 3, 6)
    for batch in range(2):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            weights = (q[batch, :, part] @ k[batch, :, part].T / 2).softmax(-1)
            due[batch, head] = weights @ tokens[batch]
    torch.testing.assert_close(attention_to(3, q, k, tokens), due)


def test_every_head_counts_alike(models: Path) -> None:
    """A head that hardly attends to a word says as much of its place as one that attends a lot."""
    parts = loaded("sd1", models / "sd1", models)
    (place,) = find_words(FAMILIES["sd1"], parts, ["zibu"], [])
    queries, keys = torch.zeros(1, 4, 4), torch.zeros(1, 77, 4)
    queries[0, 0, 0] = queries[0, 3, 2] = (
        2.0  # the first head sees it in the first cell, the other in the last
    )
    queries[0, :, 3] = 1.0
    keys[0, place.tokens.bool(), 0] = keys[0, place.tokens.bool(), 2] = 1.0
    keys[0, 0, 3] = 12.0  # the start draws off nearly all attention of the second head
    strong, weak = attention_to(2, queries, keys, place.tokens[None])[0]
    assert weak.max() < strong.max() / 20
    found = WordAttention([place])
    found.add(2, queries, keys)
    (word_map,) = found.maps((2, 2))
    assert word_map[0, 0] == pytest.approx(word_map[1, 1].item(), rel=0.1)
    assert word_map[0, 0] > 1.2
    assert word_map[0, 1] < 0.9


@pytest.mark.parametrize(
    ("cells", "latents", "size"),
    [(64, (8, 8), (8, 8)), (24, (12, 8), (6, 4)), (15, (9, 5), (5, 3)), (6, (9, 5), (3, 2))],
)
def test_the_size_of_a_layer(cells: int, latents: tuple[int, int], size: tuple[int, int]) -> None:
    assert size_of(cells, latents) == size


def test_cells_that_no_layer_has_are_an_error() -> None:
    with pytest.raises(ValueError, match="7 cells are no part of 8 x 8 latents"):
        size_of(7, (8, 8))


def test_nothing_is_left_when_drawing_fails(models: Path) -> None:
    parts = loaded("sd1", models / "sd1", models)
    with pytest.raises(RuntimeError), watched(parts.denoiser, lambda *_: None):
        raise RuntimeError
    layers = [
        part for layer in cross_attention(parts.denoiser) for part in (layer.to_q, layer.to_k)
    ]
    assert layers
    assert all(not part._forward_hooks for part in layers)
