"""Small pictures and datasets on disk for tests."""

from pathlib import Path
from typing import Any

from PIL import Image

from coinage.data.sample import Sample
from coinage.data.scan import scan
from coinage.data_config import (
    BucketConfig,
    CaptionRules,
    DataConfig,
    DatasetConfig,
    ImageRules,
    SubsetConfig,
)
from coinage.errors import Findings


def picture(
    path: Path,
    size: tuple[int, int] = (8, 8),
    colour: object = "red",
    mode: str = "RGB",
    caption: str | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def subset(folder: Path | None, **rules: Any) -> SubsetConfig:
    """A subset; keys of ImageRules and CaptionRules may stand among the others."""
    images = ImageRules(
        **{k: rules.pop(k) for k in list(rules) if k in ImageRules.__dataclass_fields__}
    )
    captions = CaptionRules(
        **{k: rules.pop(k) for k in list(rules) if k in CaptionRules.__dataclass_fields__}
    )
    return SubsetConfig(image_dir=folder, images=images, captions=captions, **rules)


def dataset(
    *subsets: SubsetConfig, resolution: tuple[int, int] = (8, 8), **more: Any
) -> DatasetConfig:
    return DatasetConfig(resolution_wh=resolution, subsets=subsets, **more)


def scanned(
    folder: Path,
    resolution: tuple[int, int] = (8, 8),
    buckets: BucketConfig | None = None,
    **rules: Any,
) -> tuple[list[Sample], Findings]:
    findings = Findings()
    data = DataConfig(
        datasets=(
            dataset(
                subset(folder, **rules), resolution=resolution, buckets=buckets or BucketConfig()
            ),
        )
    )
    return scan(data, 0, findings), findings


def one(folder: Path, resolution: tuple[int, int] = (8, 8), **rules: Any) -> Sample:
    (sample,), findings = scanned(folder, resolution, **rules)
    assert not findings.errors
    return sample
