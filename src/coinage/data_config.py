"""The configuration of images and captions, a part of `config.TrainConfig`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# In any letter case. A JPEG has many names: .jfif is what Windows makes of one from a browser.
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".webp", ".bmp", ".avif", ".jxl",
)  # fmt: skip
Template = Literal["object", "style"] | tuple[str, ...]
CAPTION_SLOT = "[filewords]"  # of a sentence of the user's own: the image's caption
TagDropout = Literal["random", "full", "random_weighted"]
SpecialTags = Literal["whitelist", "blacklist"]
Interpolation = Literal[
    "lanczos", "box", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"
]
# Mean of a mask, below which an image teaches next to nothing and normalizing would amplify noise
LEAST_MASK = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRules:
    """How a caption varies each time it is used."""

    separator: str = ","
    shuffle: bool = False
    keep_tokens: int = 0  # leading tags that stay in place
    # Text before its first, and after its second occurrence stays in place
    keep_separator: str = ""
    secondary_separator: str | None = None  # becomes the separator after shuffling
    wildcard: bool = False  # random lines and {a|b} choices
    tag_dropout: float = 0  # probability that a tag is left out, 0..1
    # Each tag by itself, all together, or each by itself and the last ones more often
    tag_dropout_mode: TagDropout = field(default="random", repr=False)
    special_tags: tuple[str, ...] = field(default=(), repr=False)
    # They always stay; or nothing else goes
    special_tags_mode: SpecialTags = field(default="whitelist", repr=False)
    # They are regular expressions for whole tags
    special_tags_regex: bool = field(default=False, repr=False)
    warmup_min: int = 1  # free tags used at the first step
    # Optimizer steps until all free tags are used, or a fraction of the run when below 1
    warmup: float = 0
    prefix: str | None = None
    suffix: str | None = None
    # Sentences that replace the caption: built-in ones, or own ones with {} for the word
    template: Template | None = None
    as_reference: bool = False  # join with ", " whatever the separator, keep empty tags

    @property
    def use_captions(self) -> bool:
        """Whether the images' own captions are used, if only as a part of a sentence."""
        if isinstance(self.template, tuple):
            return any(CAPTION_SLOT in sentence for sentence in self.template)
        return self.template is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRules:
    """How pixels are read and varied."""

    flip: bool = False  # mirror half of the images
    color: bool = False  # vary hue or gamma of a third of the images
    random_crop: bool = False  # cut anywhere instead of in the middle
    rotate: float = field(default=0.0, repr=False)  # turn by up to so many degrees, 0..180
    # Of these, the largest change of a factor of 1; of hue, in half circles; 0 is off
    brightness: float = field(default=0.0, repr=False)
    contrast: float = field(default=0.0, repr=False)
    saturation: float = field(default=0.0, repr=False)
    hue: float = field(default=0.0, repr=False)
    # lo, hi: the face takes 1/hi to 1/lo of the shorter side
    face_crop: tuple[float, float] | None = None
    interpolation: Interpolation | None = None  # None: area to shrink, Lanczos to enlarge
    alpha_mask: bool = False  # the alpha channel weighs the loss
    background: str = "white"  # colour behind transparent images
    as_reference: bool = False  # ignore EXIF orientation and transparency, gamma on 0..255

    @property
    def vary_pixels(self) -> bool:
        """Whether an image's pixels differ from use to use, apart from mirroring."""
        varied = self.rotate or self.brightness or self.contrast or self.saturation or self.hue
        return self.color or self.random_crop or self.face_crop is not None or bool(varied)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetConfig:
    """Images with their rules: a folder, or what a metadata file lists."""

    image_dir: Path | None = None  # None: the metadata file's paths are absolute
    metadata_file: Path | None = None  # JSON or JSONL with captions; None: caption files
    mask_dir: Path | None = None  # masks of the loss, named like the images
    num_repeats: int = 1  # times each image is used per epoch, >= 1
    # Images used per epoch, others each time; None: `num_repeats` counts
    samples_per_epoch: int | None = field(default=None, repr=False)
    loss_weight: float = field(default=1.0, repr=False)  # factor of the loss, >= 0
    # Learn what the model predicts with the init word in the word's place, not what the images show
    prior_prediction: bool = field(default=False, repr=False)
    regularisation: bool = False  # balanced against the other images; need not hold the word
    validation_split: float = 0  # share of images held out, 0..1
    caption_extensions: tuple[str, ...] = (".caption", ".txt")  # the first that exists is read
    class_tokens: str | None = None  # caption of images without a caption file
    cache_sizes: bool = False  # remember image sizes between runs
    captions: CaptionRules = CaptionRules()
    images: ImageRules = ImageRules()
    where: str = ""  # where it is configured, for messages
    settings: tuple[tuple[str, str], ...] = ()  # (key = value, where it was set), defaults left out


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketConfig:
    """Aspect-ratio buckets; sides in pixels."""

    enabled: bool = False
    min_side: int = 256
    max_side: int = 1024
    step: int = 64
    no_upscale: bool = False  # never enlarge: the bucket is the image's own size, rounded down
    log_ratio: bool = False  # choose by the ratio of aspect ratios, not their difference


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """Subsets that share a resolution and a batch size."""

    resolution_wh: tuple[int, int]  # pixels
    batch_size: int = 1
    buckets: BucketConfig = BucketConfig()
    validation_seed: int | None = None  # chooses the images held out; None: the run's seed
    subsets: tuple[SubsetConfig, ...]
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """All images, and how they are read."""

    datasets: tuple[DatasetConfig, ...]
    cache_latents: bool = False
    cache_to_disk: bool = False
    cache_dir: Path | None = None  # None: `.coinage` in each image folder
    cache_text: bool = False  # encodings of captions without the word
    cache_text_to_disk: bool = False
    trust_cache: bool = False  # take latents on disk as they are
    vae_batch_size: int = 1
    readers: int = 8  # threads
    skip_bad_images: bool = False  # leave out images that cannot be read
    require_word: bool = False  # a caption without the word is an error
    masks_wanted: bool = False  # no mask at all is an error

    @property
    def batch_sizes(self) -> list[int]:
        """Of each dataset."""
        return [dataset.batch_size for dataset in self.datasets]
