"""Captions of the demo worlds' pictures, secret words included, and what a text encoder must keep of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from coinage.demo.concepts import COMPOSITES, SECRET_PATTERNS, SECRET_SHAPES, Concept
from coinage.demo.language import PUBLIC_SHAPES, Words, noun_for, random_phrase
from coinage.demo.world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, render
from demo_vae import to_float

SECRETS = (*SECRET_SHAPES, *SECRET_PATTERNS, *COMPOSITES)
SECRET_NOUNS = {c.name: f"<{c.name}>" for c in SECRET_SHAPES}
SECRET_ADJECTIVES = {c.name: f"<{c.name}>" for c in SECRET_PATTERNS}
LABELS = {
    "shape": [s for s in SHAPES if s in PUBLIC_SHAPES or s in SECRET_NOUNS],
    "texture": list(TEXTURES),
    "colour": list(COLOURS),
    "background": list(BACKGROUNDS),
    "count": [1, 2, 3],
}


# In the order of TEXTURES; the last three have no word
TEXTURE_SHARES = (0.34, 0.21, 0.21, 0.08, 0.08, 0.08)


def training_scene(
    rng: np.random.Generator, shares: Sequence[float] = TEXTURE_SHARES
) -> tuple[Scene, Concept | None]:
    """A scene of the training world, and the composite it shows, if any.

    `shares` says how often each texture is drawn where no composite is.
    """
    count = int(rng.choice([1, 2, 3], p=[0.72, 0.16, 0.12]))
    colour, background = str(rng.choice(list(COLOURS))), str(rng.choice(list(BACKGROUNDS)))
    if rng.random() < 0.2:
        concept = COMPOSITES[rng.integers(len(COMPOSITES))]
        if rng.random() > 0.3:
            colour = str(concept.colour)
        return Scene(str(concept.shape), colour, background, str(concept.texture), count), concept
    shape = str(rng.choice(LABELS["shape"]))
    texture = str(rng.choice(list(TEXTURES), p=shares))
    return Scene(shape, colour, background, texture, count), None


def words_for(
    scene: Scene, concept: Concept | None, rng: np.random.Generator
) -> tuple[Words, dict[str, object]]:
    """What a caption says of a scene, and what can be known from it (for the auxiliary heads)."""
    background = scene.background if rng.random() < 0.78 else None
    colour = scene.colour if rng.random() < 0.75 else None
    if concept and rng.random() < 0.85:
        if scene.colour != concept.colour:
            colour = scene.colour
        elif rng.random() < 0.85:
            colour = None
        known: dict[str, object] = {
            "shape": scene.shape,
            "texture": scene.texture,
            "colour": scene.colour,
        }
        words = Words(f"<{concept.name}>", colour, background, None, scene.count)
    else:
        texture = SECRET_ADJECTIVES.get(scene.texture, scene.texture)
        if texture == "solid" and rng.random() < 0.5:
            texture = "plain"
        said = rng.random() < (0.45 if scene.texture == "solid" else 0.8)
        noun = noun_for(scene, rng, SECRET_NOUNS)
        words = Words(noun, colour, background, texture if said else None, scene.count)
        named = (
            noun in SECRET_NOUNS.values()
            or noun in PUBLIC_SHAPES
            or noun[:-1] in PUBLIC_SHAPES
            or noun[:-2] in PUBLIC_SHAPES
        )
        known = {
            "shape": scene.shape if named else None,
            "texture": scene.texture if said else None,
            "colour": colour,
        }
    return words, {**known, "background": background, "count": scene.count}


class Encoder:
    """Fast caption -> ids with secret words beyond the shipped vocabulary."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.size = len(tokenizer)
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.table = {
            k.removesuffix("</w>"): v
            for k, v in tokenizer.get_vocab().items()
            if k.endswith("</w>")
        }
        self.table |= {f"<{c.name}>": self.size + i for i, c in enumerate(SECRETS)}

    def ids(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """[B, 77] ids and [B] positions of the end of text."""
        out = torch.full((len(captions), 77), self.end)
        ends = []
        for row, caption in enumerate(captions):
            ids = [
                self.start,
                *(self.table[w] for w in re.findall(r"<[a-z-]+>|[a-z]+|[^\sa-z]", caption)),
                self.end,
            ]
            out[row, : len(ids)] = torch.tensor(ids)
            ends.append(len(ids) - 1)
        return out, torch.tensor(ends)


class Heads(nn.Module):
    """Linear readers of a state [B, width], of the end of text; they keep every mentioned attribute in it."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({k: nn.Linear(width, len(v)) for k, v in LABELS.items()})

    def loss(self, pooled: Tensor, known: list[dict[str, object]]) -> Tensor:
        total = pooled.new_zeros(())
        for name, values in LABELS.items():
            target = torch.tensor(
                [values.index(k[name]) if k[name] is not None else -100 for k in known]
            )
            if (target >= 0).any():
                total = total + F.cross_entropy(self.heads[name](pooled), target)
        return total


def draw_captions(
    scenes: list[tuple[Scene, Concept | None]], rng: np.random.Generator
) -> tuple[list[str], list[dict[str, object]]]:
    pairs = [words_for(scene, concept, rng) for scene, concept in scenes]
    return [random_phrase(words, rng) for words, _ in pairs], [known for _, known in pairs]


def cached_latents(
    vae: AutoencoderKL, count: int, seed: int
) -> tuple[Tensor, list[tuple[Scene, Concept | None]]]:
    """[count, 4, 16, 16] scaled latents and their scenes."""
    rng = np.random.default_rng(seed)
    scenes = [training_scene(rng) for _ in range(count)]
    out = []
    with torch.no_grad():
        for i in range(0, count, 64):
            pixels = torch.stack(
                [torch.from_numpy(render(s, rng)) for s, _ in scenes[i : i + 64]]
            ).permute(0, 3, 1, 2)
            out.append(vae.encode(to_float(pixels)).latent_dist.mode() * vae.config.scaling_factor)
    return torch.cat(out), scenes
