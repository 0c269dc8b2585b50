"""The text encoders of the flow-matching demo worlds: CLIP-L, CLIP-G and T5, and captions as they read them.

They learn first and alone, with heads that read what a caption says, and are frozen while the
transformer learns; so each caption is read once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from coinage.demo.worlds import MODELS
from demo_captions import SECRETS, Encoder, Heads, draw_captions, training_scene
from demo_flow_attention import FAST

SHORT = 20  # tokens: no caption of the world is longer
CLIP_LENGTH, T5_LENGTH = 77, 256  # tokens, as the pipelines pad
# What follows is padding, and much alike: a few of its tokens stand for all, each for so many.
CLIP_PADDING = {26: 12, 38: 45}
T5_PADDING = {26: 236}
CLIP_READ = 40  # tokens that are enough for the above: CLIP's never look ahead
WIDTHS = (128, 64, 192)  # of CLIP-L, CLIP-G and T5


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers: CLIP [B, T] with the places [B] of the end of text, T5 [B, U]."""

    clip: Tensor
    ends: Tensor
    t5: Tensor


class Tokenizers:
    """Both tokenizers, with secret words beyond the shipped vocabularies."""

    def __init__(self, t5: Path) -> None:
        self.clip = Encoder(CLIPTokenizer.from_pretrained(MODELS / "sdxl" / "tokenizer"))
        self.t5: T5TokenizerFast = T5TokenizerFast.from_pretrained(t5)
        self.t5_size = len(self.t5)
        self.t5.add_tokens([f"<{concept.name}>" for concept in SECRETS])

    def read(
        self, captions: list[str], length: int = CLIP_LENGTH, t5_length: int = T5_LENGTH
    ) -> Tokens:
        ids, ends = self.clip.ids(captions)
        if int(ends.max()) >= length:
            raise ValueError(f"a caption has more than {length} tokens")
        t5 = self.t5(
            captions,
            padding="max_length",
            max_length=t5_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return Tokens(ids[:, :length], ends, t5)


def grown_clip(name: str, vocabulary: int, width: int) -> CLIPTextModelWithProjection:
    """An encoder of the SDXL-like world with rows for the secret words and a projection to `width`."""
    folder = MODELS / "sdxl" / name
    model = CLIPTextModelWithProjection.from_pretrained(
        folder, dtype=torch.float32, projection_dim=width, ignore_mismatched_sizes=True
    )
    old = model.get_input_embeddings().weight.detach()
    model.resize_token_embeddings(vocabulary + len(SECRETS), mean_resizing=False)
    rows = old.mean(0) + 0.02 * torch.randn(len(SECRETS), old.shape[1])
    model.get_input_embeddings().weight.data[vocabulary:] = rows
    return model


def new_t5(vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary + len(SECRETS), d_model=WIDTHS[2], d_kv=32, num_heads=4, d_ff=256,
            num_layers=2, feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    )  # fmt: skip


def build_texts(tokenizers: Tokenizers) -> nn.ModuleList:
    size = tokenizers.clip.size
    return nn.ModuleList(
        [
            grown_clip("text_encoder", size, 64),
            grown_clip("text_encoder_2", size, 64),
            new_t5(tokenizers.t5_size),
        ]
    )


@dataclass(frozen=True)
class States:
    """What each encoder makes of captions.

    `hidden` holds [B, T, 128], [B, T, 64] and [B, U, 192]; `pooled` [B, 64] twice.
    """

    hidden: tuple[Tensor, Tensor, Tensor]
    pooled: tuple[Tensor, Tensor]

    def parts(self) -> tuple[Tensor, ...]:
        return (*self.hidden, *self.pooled)


def encode(texts: nn.ModuleList, tokens: Tokens) -> States:
    """The states that SD 3 uses: second-to-last of each CLIP, projected pooled vectors, T5's last."""
    one = texts[0](tokens.clip, output_hidden_states=True)
    two = texts[1](tokens.clip, output_hidden_states=True)
    hidden = (one.hidden_states[-2], two.hidden_states[-2], texts[2](tokens.t5)[0])
    return States(hidden, (one.text_embeds, two.text_embeds))


def heads_of(states: States, tokens: Tokens) -> tuple[Tensor, ...]:
    """The states at the end of text, and the pooled vectors: 5 tensors [B, width]."""
    rows = torch.arange(len(tokens.ends))
    t5_end = (tokens.t5 == 1).int().argmax(1)
    places = (tokens.ends, tokens.ends, t5_end)
    return (
        *(h[rows, place] for h, place in zip(states.hidden, places, strict=True)),
        *states.pooled,
    )


def pretrain(
    texts: nn.ModuleList, tokenizers: Tokenizers, steps: int, rng: np.random.Generator
) -> None:
    """Teach each encoder to gather what a caption says; T5 now and then with all of its padding."""
    heads = nn.ModuleList([Heads(width) for width in (*WIDTHS, 64, 64)])
    rates = (5e-4, 5e-4, 2e-3, 2e-3)
    groups = [
        {"params": list(module.parameters()), "lr": rate}
        for module, rate in zip((*texts, heads), rates, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / 30, 2 * (1 - i / steps))
    )
    for step in range(steps):
        padded = step % 10 == 9
        scenes = [training_scene(rng) for _ in range(16 if padded else 64)]
        captions, known = draw_captions(scenes, rng)
        tokens = tokenizers.read(captions, *((77, 256) if padded else (SHORT, SHORT)))
        ends = heads_of(encode(texts, tokens), tokens)
        losses = [head.loss(end, known) for head, end in zip(heads, ends, strict=True)]
        sum(losses).backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"texts {step}", *(f"{loss.item():.3f}" for loss in losses), flush=True)


def shortened(states: States) -> States:
    """The states of all tokens with few for the padding, in bfloat16."""
    clip, t5 = ([*range(SHORT), *padding] for padding in (CLIP_PADDING, T5_PADDING))
    kept = (h[:, places] for h, places in zip(states.hidden, (clip, clip, t5), strict=True))
    one, two, three = (h.bfloat16() for h in kept)
    return States((one, two, three), (states.pooled[0].bfloat16(), states.pooled[1].bfloat16()))


def token_weights(clip: bool, t5_padding: float = 1.0) -> Tensor:
    """How many tokens each token of `shortened` states stands for, as logarithms [T]: CLIP's, then T5's.

    `t5_padding` is how much of T5's padding there is; 1 is all 256 tokens.
    """
    counts = [1.0] * SHORT + [float(n) for n in CLIP_PADDING.values()] if clip else []
    counts += [1.0] * SHORT + [max(1e-6, n * t5_padding) for n in T5_PADDING.values()]
    return torch.tensor(counts).log()


@torch.no_grad()
def read_all(texts: nn.ModuleList, tokenizers: Tokenizers, captions: list[str]) -> States:
    """The `shortened` states of all captions; computed in the fastest dtype."""
    half, parts = copy.deepcopy(texts).to(FAST), []
    for i in range(0, len(captions), 64):
        tokens = tokenizers.read(captions[i : i + 64], CLIP_READ)
        parts.append(shortened(encode(half, tokens)).parts())
    return joined([States((one, two, t5), (p, q)) for one, two, t5, p, q in parts])


def joined(states: list[States]) -> States:
    """All of them as one."""
    one, two, t5, *pooled = (
        torch.cat(part) for part in zip(*(s.parts() for s in states), strict=True)
    )
    return States((one, two, t5), (pooled[0], pooled[1]))
