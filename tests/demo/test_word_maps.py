"""Where a word acts: on the demo world's model, on the object that it names."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from coinage.api import load_model
from coinage.demo.reader import objects_in
from coinage.demo.run import MODEL
from coinage.demo.score import prompt_for
from coinage.embeddings.word import Word
from coinage.report.word_maps import heat

SHAPES = {"circle": "zuba", "star": "zube", "heart": "zubi", "arrow": "zubo"}
pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


def test_a_shapes_word_acts_on_the_shape() -> None:
    """What the model's own words say, said by a new word: nothing is trained.

    The objects take a fifth of the area; a map that knows nothing has as much of its heat there.
    """
    model = load_model(MODEL, precision="no", device="cpu")
    (tokenizer,), (encoder,) = model.parts.tokenizers, model.parts.text_encoders
    table = encoder.get_input_embeddings()
    prompts = []
    for number, (shape, token) in enumerate(SHAPES.items()):
        (row,) = tokenizer.encode(shape, add_special_tokens=False)
        model.install(Word({"emb_params": table(torch.tensor([row])).detach()}), token)
        prompt = prompt_for(f"a photo of a green {token} on a white background", number)
        prompts.append(replace(prompt, steps=10, sampler="dpmsolver++"))
    shares, areas = [], []
    for drawn in model.draw_with_maps(prompts, batch_size=len(prompts)):
        (word_map,) = drawn.word_maps.values()
        _, objects = objects_in(drawn.pixels)
        mask = np.logical_or.reduce(objects)
        spread = heat(word_map, (64, 64))
        shares.append(spread[mask].sum() / spread.sum())
        areas.append(mask.mean())
    assert np.mean(areas) < 0.3
    assert np.mean(shares) > 2 * np.mean(areas)
