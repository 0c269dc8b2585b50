"""One image of a dataset with its caption, as the scan of the folders gives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coinage.data.buckets import Fit, Size
from coinage.data_config import SubsetConfig
from coinage.text.placeholder import word_pattern

MUCH_ENLARGED = 2.0  # times
LATENTS = Path(".coinage") / "latents"  # kept on disk, in an image folder


@dataclass(frozen=True, slots=True)
class Draw:
    """A group of images some of which are used once more in each epoch, in turns.

    Attributes:
        group: its number.
        count: of these uses, below the number of images.
    """

    group: int
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a subset, with its caption and how it is fitted to its bucket."""

    path: Path
    caption: str  # lines, when wildcards are on
    subset: SubsetConfig
    dataset: int  # index into the datasets
    image_wh: Size  # as displayed
    fit: Fit  # cut in the middle
    repeats: int = 1  # uses per epoch; 0 when held out
    held_out: bool = False  # for validation only
    bucketed: bool = False
    rotated: bool = False  # an EXIF orientation turns it
    mask: Path | None = None
    draw: Draw | None = None  # uses beyond the repeats

    @property
    def beside(self) -> bool:
        """True for an image that does not show what the word means."""
        return self.subset.regularisation or self.subset.prior_prediction

    @property
    def trains(self) -> bool:
        """True for an image that teaches the word what it shows, and is not held out."""
        return not self.held_out and not self.beside

    @property
    def masked(self) -> bool:
        """True for an image with a mask, or whose alpha channel is taken for one."""
        return self.mask is not None or self.subset.images.alpha_mask

    @property
    def latents(self) -> int:
        """Number of latents to keep: 2 for an image that is mirrored at random, else 1."""
        return 2 if self.subset.images.flip and not self.held_out else 1

    def beside_without(self, token: str) -> bool:
        """Return whether this is such an image and its caption lacks the word, unless a template has it."""
        lacking = not word_pattern([token]).search(self.caption)
        return self.beside and lacking and not self.subset.captions.template

    @property
    def enlarged(self) -> float:
        """Factor by which the image grows on its way to the bucket; below 1 it shrinks."""
        resized, image = self.fit.resized_wh, self.image_wh
        return max(resized[0] / image[0], resized[1] / image[1])


def uses_per_epoch(samples: Iterable[Sample]) -> int:
    """Return how many images an epoch shows, each as often as it is used."""
    uses = 0
    groups: dict[int, int] = {}
    for sample in samples:
        uses += sample.repeats
        if sample.draw:
            groups[sample.draw.group] = sample.draw.count
    return uses + sum(groups.values())
