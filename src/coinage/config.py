"""The training configuration: frozen, built once, then only read.

Every field has its unit and range beside it. `cli` builds a `TrainConfig` from flags and files;
`preflight.check` finds what is wrong with one. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["no", "fp16", "bf16"]
PredictionType = Literal["epsilon", "v_prediction"]
SaveFormat = Literal["safetensors", "pt", "ckpt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how its text encoder is read."""

    source: str  # diffusers folder, checkpoint file, or hub id
    vae: str | None = None  # replaces the model's own VAE
    prediction_type: PredictionType | None = None  # None: as the model's scheduler says
    clip_skip: int | None = None  # 1..layers; None and 1: the last layer
    precision: Precision = "no"
    full_precision_vae: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WordConfig:
    """One new word."""

    token: str  # as captions write it; case-sensitive
    num_vectors: int = 1  # 1..75
    init_word: str | None = None  # one or more known tokens
    init_file: Path | None = None  # an embedding file; wins over init_word
    output_name: str = ""  # file name without suffix; the token when empty


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRules:
    """How a caption varies each time it is used."""

    separator: str = ","
    shuffle: bool = False
    keep_tokens: int = 0  # leading tags that stay in place
    keep_separator: str = ""  # text before its first, and after its second occurrence stays in place
    secondary_separator: str | None = None  # becomes the separator after shuffling
    wildcard: bool = False  # random lines and {a|b} choices
    tag_dropout: float = 0  # probability that a tag is left out, 0..1
    warmup_min: int = 1  # free tags used at the first step
    warmup_steps: int = 0  # optimizer steps until all free tags are used
    prefix: str | None = None
    suffix: str | None = None
    template: Literal["object", "style"] | None = None  # replaces the caption


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetConfig:
    """A folder of images with its rules."""

    image_dir: Path
    num_repeats: int = 1  # times each image is used per epoch, >= 1
    caption_extensions: tuple[str, ...] = (".caption", ".txt")  # the first that exists is read
    class_tokens: str | None = None  # caption of images without a caption file
    flip: bool = False  # mirror half of the images
    captions: CaptionRules = CaptionRules()
    where: str = ""  # where it is configured, for messages


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketConfig:
    """Aspect-ratio buckets; sides in pixels."""

    enabled: bool = False
    min_side: int = 256
    max_side: int = 1024
    step: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """Subsets that share a resolution and a batch size."""

    resolution_wh: tuple[int, int]  # pixels
    batch_size: int = 1
    buckets: BucketConfig = BucketConfig()
    subsets: tuple[SubsetConfig, ...]
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """All images, and how they are read."""

    datasets: tuple[DatasetConfig, ...]
    cache_latents: bool = False
    vae_batch_size: int = 1
    readers: int = 8  # threads


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """The forward process."""

    offset: float = 0.0  # Guttenberg 2023: a constant per channel, >= 0
    min_timestep: int = 0  # inclusive
    max_timestep: int = 1000  # exclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """How errors at different timesteps are weighed."""

    min_snr_gamma: float = 0.0  # Hang et al. 2023; 0 is off


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Optimizer and learning rate."""

    name: str = "AdamW"
    learning_rate: float = 2e-6
    arguments: tuple[tuple[str, object], ...] = ()
    max_grad_norm: float = 1.0  # over all rows together; 0 is off
    accumulation: int = 1  # batches per step
    schedule: str = "constant"
    warmup: float = 0  # steps, or a fraction of the run when below 1
    cycles: int = 1
    power: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How long, and from which seed."""

    max_steps: int = 1600  # optimizer steps
    max_epochs: int | None = None  # wins over max_steps
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveConfig:
    """When and as what the embedding is written."""

    output_dir: Path
    format: SaveFormat = "pt"
    precision: Literal["float", "fp16", "bf16"] = "float"
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    n_epoch_ratio: int | None = None  # wins over every_n_epochs
    metadata: tuple[tuple[str, str], ...] = ()  # ModelSpec fields given by the user


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    """When which pictures are drawn."""

    prompts: Path | None = None
    every_n_steps: int | None = None
    every_n_epochs: int | None = None  # wins over every_n_steps
    at_first: bool = False
    sampler: str = "ddim"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Where progress is recorded."""

    dir: Path | None = None
    tracker: Literal["tensorboard"] | None = None
    prefix: str = ""
    name: str = "textual_inversion"
    level: str = "INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a run needs to know."""

    model: ModelConfig
    words: tuple[WordConfig, ...]
    data: DataConfig
    noise: NoiseConfig = NoiseConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    save: SaveConfig
    preview: PreviewConfig = PreviewConfig()
    log: LogConfig = LogConfig()
