"""Estimate the GPU memory that a run needs, phase by phase, from sizes alone. Imports no torch.

Weights are counted. Activations are a fit to what `benchmarks/memory.py` counts in each phase, within
10 % (`coinage.models.costs`). What the CUDA context and cuDNN take is a guess, and --torch_compile is
not looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coinage.config import ModelConfig, TrainConfig
from coinage.data.batches import uses_per_group
from coinage.data.buckets import Size
from coinage.data.sample import Sample
from coinage.models.costs import costs_of
from coinage.models.facts import FACTS, ModelSizes
from coinage.text.placeholder import CHUNK
from coinage.text.prompts import Prompt

MB, GB = 2**20, 2**30
# A guess: PyTorch's own kernels and the driver; 300 to 700 MB are reported for different GPUs
CONTEXT = 512 * MB
WORKSPACE = 128 * MB  # a guess: of cuBLAS and cuDNN, and what the allocator cannot use


# Of the VAE, for each pixel of a picture in half precision; twice that in float32. cuDNN may need as much
# again.
ENCODING, DECODING = 1_286, 1_536


TILE, FROM_TILES = 512**2, 24  # pixels of a tile; bytes for each pixel of a picture made of tiles
# Of a UNet whose weights are copied when they are needed: two buffers, and one part in so many that stays
STREAM_BUFFERS, NOT_STREAMED = 2 * 64 * MB, 40
ENCODED, DRAWN = "while images are encoded", "while previews are drawn"
FIRST_LOOK, MEASURED = "at the first look at the model", "while the loss is measured"
CHECKED = "while the file is checked"
GREY = "while the masked picture of an inpainting model is encoded"
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
    """Return what a run needs on each GPU: that of the phase that needs most.

    Args:
        config: the run.
        sizes: of its model.
        samples: all images, with the buckets that they are fitted to.
        prompts: of previews.
        owners: the word that each dataset is for, where several share a step.
    """
    most = max(phases(config, sizes, samples, prompts, owners), key=lambda phase: phase.total)
    rest = CONTEXT + WORKSPACE + optimizer_bytes(config)
    return Footprint(most.model, most.activations, rest, most.when, sizes.from_model)


@dataclass(frozen=True, slots=True)
class Phase:
    """What a phase of a run takes on a GPU, in bytes.

    Attributes:
        when: in words; "" for the training steps.
        model: weights on the GPU.
        activations: at most, of what is computed from them.
    """

    when: str
    model: int
    activations: int = 0

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.model + self.activations


def phases(
    config: TrainConfig,
    sizes: ModelSizes,
    samples: Sequence[Sample],
    prompts: Sequence[Prompt] = (),
    owners: Sequence[int] = (),
) -> list[Phase]:
    """Return the phases of a run in their order, with the arguments of `footprint`."""
    model, facts = config.model, FACTS[config.model.family]
    vae, cached = sizes.vae * vae_bytes(model), config.data.cache_latents
    trained = weights(model, sizes)
    stays = trained if cached else trained + vae
    costs, width = costs_of(model), math.sqrt(sizes.unet / facts.released.unet)
    loads = batch_loads(config, samples, owners)
    chunks = min(model.max_token_length // CHUNK, facts.most_chunks)
    encoded = max((pixels * batch for pixels, batch in encoder_loads(config, samples)), default=0)
    found = [
        Phase(ENCODED, vae if cached else stays, vae_work(model, sizes, encoded * ENCODING)),
        Phase(FIRST_LOOK, stays, int(costs.first_look[model.gradient_checkpointing] * width)),
        Phase("", stays, _most(activations(model, sizes, *load, chunks) for load in loads)),
    ]
    # Recorded steps keep their memory between steps
    held = found[-1].activations if model.cuda_graphs else 0
    if is_measured(config, samples):
        alike = [(pixels, evaluated_at_once(model, *load)) for load in loads for pixels in load[:1]]
        passes = (activations_without_gradient(model, sizes, *load) for load in alike)
        found.append(Phase(MEASURED, stays, _most(passes) + held))
    if prompts:
        drawn = max((p.width or facts.side) * (p.height or facts.side) for p in prompts)
        # One with the prompt, one without
        sampled = activations_without_gradient(model, sizes, drawn, 2)
        found.append(Phase(DRAWN, stays, sampled + held))
        found.append(Phase(DRAWN, trained + vae, decoding(model, sizes, drawn) + held))
    if sizes.inpaints:
        largest = max((pixels for pixels, _ in loads), default=0)
        found.append(Phase(GREY, trained + vae, vae_work(model, sizes, largest * ENCODING) + held))
    text = costs.text * math.sqrt(sizes.text / facts.released.text)
    return [*found, Phase(CHECKED, stays, int(text))]


def _most(sizes: Iterable[int]) -> int:
    return max(sizes, default=0)


def is_measured(config: TrainConfig, samples: Sequence[Sample]) -> bool:
    """Return whether a run measures the evaluation loss."""
    decides = config.loop.early_stop or config.save.lowest_loss
    return decides or any(sample.held_out for sample in samples)


def vae_work(model: ModelConfig, sizes: ModelSizes, work: int) -> int:
    """Return the bytes of what the VAE computes, where the released one takes `work` in half precision."""
    released = FACTS[model.family].released
    return int(work * vae_bytes(model) / 2 * math.sqrt(sizes.vae / released.vae))


def decoding(model: ModelConfig, sizes: ModelSizes, pixels: int) -> int:
    """Return the bytes of what the VAE computes for a picture of so many pixels."""
    if model.low_memory and pixels > TILE:
        # The tiles that are done, and the picture that is made of them
        return vae_work(model, sizes, TILE * DECODING + pixels * FROM_TILES)
    return vae_work(model, sizes, pixels * DECODING)


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
    facts = FACTS[model.family]
    width = math.sqrt(sizes.unet / facts.released.unet)
    unet = cost.pixel * pixels / facts.latent_scale**2 * width
    text = cost.chunk * chunks * math.sqrt(sizes.text / facts.released.text)
    return int(batch * (unet + text) + cost.fixed * width)


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
    facts = FACTS[model.family]
    width = math.sqrt(sizes.unet / facts.released.unet)
    return int(batch * costs_of(model).measured * pixels / facts.latent_scale**2 * width)


def evaluated_at_once(model: ModelConfig, pixels: int, batch: int) -> int:
    """Return how many samples are measured together: as many as take no more memory than a step does.

    Args:
        model: family and precision.
        pixels: of a picture.
        batch: pictures of a training step.
    """
    if model.low_memory:
        return 1
    sizes = FACTS[model.family].released  # of another width, both need more or less alike
    step = activations(model, sizes, pixels, batch)
    one = activations_without_gradient(model, sizes, pixels, 1)
    return max(1, min(MOST_AT_ONCE, step // one))


def weights(model: ModelConfig, sizes: ModelSizes) -> int:
    """Return the bytes of the weights of UNet and text encoders on the GPU."""
    low = 4 if model.precision == "no" else 2
    kept = low if model.low_precision_text else 4
    unet = sizes.unet * low
    if model.fp8_unet and low < 4:
        unet = sizes.unet - sizes.unet_small + sizes.unet_small * low
    if model.streamed:
        unet = min(unet, STREAM_BUFFERS + unet // NOT_STREAMED)
    text, on_gpu = (sizes.text - sizes.text_kept) * low, sizes.text_kept
    if model.low_memory:
        text, on_gpu = sizes.text - sizes.text_kept, sizes.text_kept - sizes.text_tables
    return unet + text + on_gpu * kept


def vae_bytes(model: ModelConfig) -> int:
    """Return the bytes of a number of the VAE. One that overflows in fp16 works in float32."""
    own_vae = model.vae is None
    overflows = model.precision == "fp16" and own_vae and FACTS[model.family].vae_overflows_fp16
    return 4 if model.precision == "no" or model.full_precision_vae or overflows else 2


def optimizer_bytes(config: TrainConfig) -> int:
    """Return the bytes of the rows, their gradient and AdamW's two moments, float32."""
    return config.word.num_vectors * FACTS[config.model.family].vector_width * 4 * 4
