"""Some of the training images of a run, for its page."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from coinage.data.sample import Sample
from coinage.report.contact_sheet import marks_of, thumbnail
from coinage.report.fit import pick_evenly
from coinage.report.record import Image
from coinage.text.placeholder import marked_parts

MAX_IMAGES = 40
THUMBNAIL_SIZE = 144  # pixels
READERS = 4  # threads


def shown_numbers(samples: Sequence[Sample]) -> list[int]:
    """Return the numbers of at most 40 images, evenly chosen."""
    return list(pick_evenly(range(len(samples)), MAX_IMAGES))


def shown_images(samples: Sequence[Sample], token: str) -> list[Image]:
    """Return the images' thumbnails, with captions that mark the word."""
    with ThreadPoolExecutor(READERS) as pool:
        pictures = list(pool.map(_thumbnail, samples))
    images = []
    for sample, picture in zip(samples, pictures, strict=True):
        image = Image(
            name=sample.path.name,
            thumbnail=picture,
            caption=marked_parts(sample.caption, token),
            size_wh=sample.image_wh,
            bucket_wh=sample.fit.bucket_wh,
            repeats=sample.repeats or int(sample.draw is not None),
            marks=marks_of(sample),
        )
        images.append(image)
    return images


def _thumbnail(sample: Sample) -> str:
    return thumbnail(sample, THUMBNAIL_SIZE)
