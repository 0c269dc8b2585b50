"""CLIP text encoders: several rows of a caption become one sequence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.models.clip_text import end_of_text, join_chunks, weigh
from coinage.models.families import FAMILIES
from tests.helpers import prepared
from tests.tiny_models import loaded

SIZES = torch.zeros(1, 6)


@pytest.mark.parametrize(
    ("chunks", "places"),
    [
        (1, range(77)),
        (2, [*range(76), *range(78, 154)]),
        (3, [0, *range(1, 76), *range(78, 153), *range(155, 230), 230]),
    ],
)
def test_rows_are_joined_without_the_starts_and_ends_between_them(
    chunks: int, places: list[int]
) -> None:
    rows = torch.arange(2 * chunks * 77.0).reshape(2 * chunks, 77, 1)
    joined = join_chunks(rows, chunks)
    assert joined.shape == (2, 75 * chunks + 2, 1)
    assert joined[0, :, 0].tolist() == list(places)
    assert joined[1, :, 0].tolist() == [p + chunks * 77 for p in places]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_mean_of_nothing_is_left_alone(dtype: torch.dtype) -> None:
    """So it is behind a norm that was never trained; the ratio of two rounding errors is anything."""
    hidden = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.nn.functional.layer_norm(torch.cat([hidden, torch.zeros(1, 77, 32)]), (32,))
    hidden = hidden.to(dtype)
    if dtype != torch.float32:  # rounding moves the mean; here it is exactly nothing
        hidden = torch.cat([hidden, -hidden], dim=2)
    weights = torch.ones(3, 77, 1)
    weights[:, 3] = 1.3
    assert torch.equal(weigh(hidden, weights, keep_mean=True), hidden * weights.to(dtype))
    shifted = weigh(hidden + 1, weights, keep_mean=True).float()
    assert shifted.mean(dim=(1, 2)) == pytest.approx([1.0] * 3, rel=0.01)


def test_the_end_of_text_is_found_though_a_new_word_has_a_larger_id() -> None:
    ids = torch.tensor(
        [
            [49406, 320, 49410, 49407, 0, 0],
            [49406, 49407, 49407, 49407, 49407, 49407],
            [49406, 1, 2, 3, 4, 5],
        ]
    )
    assert end_of_text(ids, 49407).tolist() == [3, 1, 0]


def test_a_short_caption_is_read_alike_at_any_length(moon_dataset: Path, tmp_path: Path) -> None:
    short, long = (
        prepared(moon_dataset, tmp_path, *more) for more in ((), ("--max_token_length=150",))
    )
    captions = ["a photo of zibu on a red background"]
    one, two = (
        run.family.encode(run.parts, captions, SIZES).encoder_hidden_states for run in (short, long)
    )
    assert two.shape == (1, 152, one.shape[2])
    torch.testing.assert_close(one[:, :76], two[:, :76])


def test_a_word_beyond_75_tokens_gets_a_gradient(moon_dataset: Path, tmp_path: Path) -> None:
    caption = "red " * 100 + "zibu"
    for length, learns in ((150, True), (75, False)):
        more = [f"--max_token_length={length}"] if length > 75 else []
        run = prepared(moon_dataset, tmp_path, *more)
        hidden = run.family.encode(run.parts, [caption], SIZES).encoder_hidden_states
        (gradient,) = torch.autograd.grad(
            hidden.square().sum(), run.parts.rows(), allow_unused=True
        )
        assert bool(gradient.abs().sum() > 0) == learns


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize(("words", "chunks"), [(40, 1), (80, 2), (75 * 3, 3)])
def test_a_long_prompt_is_drawn_in_whole_chunks(
    family: str, words: int, chunks: int, models: Path
) -> None:
    """Each row of 77 with its own start and end, encoded by hand with the library's encoder."""
    parts = replace(loaded(family, models / family, models), chunks=chunks)
    (encoder,), (tokenizer,) = parts.text_encoders, parts.tokenizers
    # A norm that was never trained leaves a mean of nothing, which is not kept
    getattr(encoder, "text_model", encoder).final_layer_norm.bias += 0.5
    (red,) = tokenizer.encode("red", add_special_tokens=False)
    pad = tokenizer.get_vocab()["!"] if family == "sd2" else 738
    rows = []
    for chunk in range(chunks):
        text = [red] * min(75, words - 75 * chunk)
        rows.append([737, *text, 738, *[pad] * (75 - len(text))])
    expected = torch.cat([encoder(torch.tensor([row])).last_hidden_state for row in rows], dim=1)
    captions = ["red " * words]
    drawn = FAMILIES[family].encode(parts, captions, SIZES, weighted=True).encoder_hidden_states
    trained = FAMILIES[family].encode(parts, captions, SIZES).encoder_hidden_states
    torch.testing.assert_close(drawn, expected)
    assert (drawn.shape[1], trained.shape[1]) == (77 * chunks, 75 * chunks + 2)
    torch.testing.assert_close(trained, join_chunks(expected.unflatten(1, (chunks, 77))[0], chunks))
    heavy = (
        FAMILIES[family]
        .encode(parts, [f"{'red ' * (words - 1)}(red:1.5)"], SIZES, weighted=True)
        .encoder_hidden_states
    )
    weights = torch.ones(1, 77 * chunks, 1)
    weights[0, (words - 1) // 75 * 77 + (words - 1) % 75 + 1] = 1.5
    scaled = expected * weights
    torch.testing.assert_close(heavy, scaled * expected.mean() / scaled.mean())


@torch.no_grad()
def test_sdxl_draws_long_prompts_as_it_trains(models: Path) -> None:
    parts = replace(loaded("sdxl", models / "sdxl", models), chunks=2)
    drawn, trained = (
        FAMILIES["sdxl"].encode(parts, ["red " * 80], SIZES, weighted=way) for way in (True, False)
    )
    assert drawn.encoder_hidden_states.shape[1] == 152
    assert torch.equal(drawn.encoder_hidden_states, trained.encoder_hidden_states)
    assert drawn.pooled is not None
    assert trained.pooled is not None
    assert torch.equal(drawn.pooled, trained.pooled)
