"""Estimate the GPU memory that a run needs, from sizes alone. Imports no torch.

Weights are counted. Activations are a fit to what `benchmarks/memory.py` measures: within 1 %, with
--fp8_base within 20 %. What the CUDA context and cuDNN take is a guess, and --torch_compile is not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from coinage.config import ModelConfig, TrainConfig
from coinage.data.batches import uses_per_group
from coinage.data.buckets import Size
from coinage.data.sample import Sample
from coinage.models.costs import Cost, costs_of
from coinage.models.facts import FACTS, ModelSizes
from coinage.text.placeholder import CHUNK
from coinage.text.prompts import Prompt

MB, GB = 2**20, 2**30
# A guess: PyTorch's own kernels and the driver; 300 to 700 MB are reported for different GPUs
CONTEXT = 512 * MB
WORKSPACE = 128 * MB  # a guess: of cuBLAS and cuDNN, and what the allocator cannot use


UNPACKED = 24 * MB  # the weights of a layer, brought from 8 bits to what is computed with
# Of the VAE, for each pixel of a picture in half precision; twice that in float32. cuDNN may need as much
# again.
ENCODING, DECODING = 1_286, 1_536


MOST_AT_ONCE = 16  # samples that are measured together


@dataclass(frozen=True, slots=True)
class Footprint:
    """GPU memory in bytes, at the time when a run needs most of it.

    Attributes:
        model: weights on the GPU.
        activations: what is computed from them.
        rest: CUDA's own, the rows and their optimizer.
        when: what is done then, if it is not a training step.
        sizes_known: the sizes are the model's own; otherwise those of the released model.
    """

    model: int
    activations: int
    rest: int
    when: str = ""
    sizes_known: bool = True

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.model + self.activations + self.rest

    def shown(self) -> str:
        """Return one line for people."""
        when = f", most {self.when}" if self.when else ""
        model, activations = self.model / GB, self.activations / GB
        parts = f"model {model:.1f}, activations {activations:.1f}, the rest {self.rest / GB:.1f}"
        origin = "" if self.sizes_known else " (estimated from the released model)"
        return f"about {in_gb(self.total)} of GPU memory{when}: {parts}{origin}"


def in_gb(size: float) -> str:
    """Return bytes for people, in units of 2**30."""
    return f"{size / GB:.1f} GB"


def footprint(
    config: TrainConfig,
    sizes: ModelSizes,
    samples: Sequence[Sample],
    prompts: Sequence[Prompt] = (),
    owners: Sequence[int] = (),
) -> Footprint:
    """Return what a run needs on each GPU: the most of training, encoding and drawing previews.

    Args:
        config: the run.
        sizes: of its model.
        samples: all images, with the buckets that they are fitted to.
        prompts: of previews.
        owners: the word that each dataset is for, where several share a step.
    """
    model, facts = config.model, FACTS[config.model.family]
    chunks = model.max_token_length // CHUNK
    step = encoded = drawn = 0
    for pixels, batch in batch_loads(config, samples, owners):
        step = max(step, activations(model, sizes, pixels, batch, chunks))
    for pixels, batch in encoder_loads(config, samples):
        encoded = max(encoded, pixels * batch)
    for prompt in prompts:
        drawn = max(drawn, (prompt.width or facts.side) * (prompt.height or facts.side))
    always, vae = weights(model, sizes), sizes.vae * vae_bytes(model)
    work = vae_bytes(model) / 2 * math.sqrt(sizes.vae / facts.released.vae)
    times = [
        (always + (0 if config.data.cache_latents else vae), step, ""),
        (always + vae, int(encoded * ENCODING * work), "while images are encoded"),
        (always + vae, int(drawn * DECODING * work), "while previews are drawn"),
    ]
    weight, activation, when = max(times, key=lambda time: time[0] + time[1])
    rest = CONTEXT + WORKSPACE + optimizer_bytes(config)
    return Footprint(weight, activation, rest, when, sizes.from_model)


def batch_loads(
    config: TrainConfig, samples: Sequence[Sample], owners: Sequence[int] = ()
) -> set[tuple[int, int]]:
    """Return (pixels of a picture, pictures) of each bucket's largest batch, of all words together."""
    largest: Counter[tuple[int, Size]] = Counter()
    for (number, size), count in uses_per_group(samples).items():
        key = owners[number] if owners else 0, size
        largest[key] = max(largest[key], min(config.data.datasets[number].batch_size, count))
    joint: Counter[Size] = Counter()
    for (_, size), batch in largest.items():
        joint[size] += batch
    return {(math.prod(size), batch) for size, batch in joint.items() if batch}


def encoder_loads(config: TrainConfig, samples: Sequence[Sample]) -> set[tuple[int, int]]:
    """Return (pixels of a picture, pictures) of the largest batches that the VAE encodes."""
    if not config.data.cache_latents:
        single = {(math.prod(sample.fit.bucket_wh), 1) for sample in samples}
        return batch_loads(config, samples) | single
    images: Counter[Size] = Counter()
    for sample in samples:
        images[sample.fit.bucket_wh] += sample.latents
    loads = set()
    for size, count in images.items():
        if count:
            loads.add((math.prod(size), min(config.data.vae_batch_size, count)))
    return loads


def activations(
    model: ModelConfig, sizes: ModelSizes, pixels: int, batch: int, chunks: int = 1
) -> int:
    """Return the bytes of activations of a training step at most, the backward pass included.

    A UNet of another size than the released one is taken to be of the same build and narrower or wider.

    Args:
        model: family and precision.
        sizes: of the model.
        pixels: of a picture.
        batch: pictures.
        chunks: of 75 tokens, in a caption.
    """
    costs = costs_of(model)
    cost = costs.checkpointed if model.gradient_checkpointing else costs.kept
    return _of(cost, model, sizes, pixels, batch, chunks)


def activations_without_gradient(
    model: ModelConfig, sizes: ModelSizes, pixels: int, batch: int
) -> int:
    """Return the bytes of activations of a forward pass that keeps nothing for a gradient, at most.

    Args:
        model: family and precision.
        sizes: of the model.
        pixels: of a picture.
        batch: pictures.
    """
    return _of(costs_of(model).measured, model, sizes, pixels, batch, 1)


def evaluated_at_once(model: ModelConfig, pixels: int, batch: int) -> int:
    """Return how many samples are measured together: as many as take no more memory than a step does.

    Args:
        model: family and precision.
        pixels: of a picture.
        batch: pictures of a training step.
    """
    sizes = FACTS[model.family].released  # of another width, both need more or less alike
    step = activations(model, sizes, pixels, batch)
    one = activations_without_gradient(model, sizes, pixels, 1)
    return max(1, min(MOST_AT_ONCE, step // one))


def _of(
    cost: Cost, model: ModelConfig, sizes: ModelSizes, pixels: int, batch: int, chunks: int
) -> int:
    facts = FACTS[model.family]
    width = math.sqrt(sizes.unet / facts.released.unet)
    unet = cost.pixel * pixels / facts.latent_scale**2 * width
    text = cost.chunk * chunks * math.sqrt(sizes.text / facts.released.text)
    unpacked = UNPACKED if model.fp8_unet and model.precision != "no" else 0
    return int(batch * (unet + text)) + unpacked


def weights(model: ModelConfig, sizes: ModelSizes) -> int:
    """Return the bytes of the weights of UNet and text encoders."""
    low = 4 if model.precision == "no" else 2
    kept = low if model.low_precision_text else 4
    unet = sizes.unet * low
    if model.fp8_unet and low < 4:
        unet = sizes.unet - sizes.unet_small + sizes.unet_small * low
    return unet + (sizes.text - sizes.text_kept) * low + sizes.text_kept * kept


def vae_bytes(model: ModelConfig) -> int:
    """Return the bytes of a number of the VAE. One that overflows in fp16 works in float32."""
    own_vae = model.vae is None
    overflows = model.precision == "fp16" and own_vae and FACTS[model.family].vae_overflows_fp16
    return 4 if model.precision == "no" or model.full_precision_vae or overflows else 2


def optimizer_bytes(config: TrainConfig) -> int:
    """Return the bytes of the rows, their gradient and AdamW's two moments, float32."""
    return config.word.num_vectors * FACTS[config.model.family].vector_width * 4 * 4
