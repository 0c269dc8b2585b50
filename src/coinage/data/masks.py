"""Find the mask of each image: a folder of images with the same names and aspect ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from coinage.data.buckets import Size
from coinage.data.folder import list_folder, normalized, report_other_kinds
from coinage.data.group_problems import group_problems
from coinage.data.headers import Header, read_header
from coinage.data.parallel_reads import read_many
from coinage.data.sample import Sample
from coinage.data_config import SubsetConfig
from coinage.errors import Findings
from coinage.wording import few


class MaskFolders:
    """The mask folders of all subsets; each is listed once."""

    def __init__(self) -> None:
        self._masks: dict[Path, dict[str, str]] = {}  # folder: mask's stem to path

    def masks_for(self, subset: SubsetConfig, findings: Findings) -> Mapping[str, str] | None:
        """Return the masks that a subset may use, stem to path; None where it uses none."""
        folder = subset.mask_dir
        if folder is None or subset.regularisation:
            return None
        if folder not in self._masks:
            contents = list_folder(folder, subset.where, "mask folder", findings)
            report_other_kinds(contents, folder, findings)
            masks = {}
            for name in contents.images:
                masks[Path(name).stem] = contents.paths[name]
            self._masks[folder] = masks
        return self._masks[folder]

    def warn_of_unused(self, samples: Sequence[Sample], findings: Findings) -> None:
        """Warn about masks that belong to no image, where others in their folder do."""
        used = set()
        for sample in samples:
            if sample.mask:
                used.add((sample.mask.parent, sample.mask.stem))
        for folder, masks in self._masks.items():
            unused = [stem for stem in masks if (folder, stem) not in used]
            if unused and len(unused) < len(masks):
                belong = "1 mask belongs" if len(unused) == 1 else f"{len(unused)} masks belong"
                findings.warn(f"{belong} to no image: {few(unused)}", str(folder))


def match_masks(
    images: Sequence[str],
    headers: Mapping[str, Header],
    masks: Mapping[str, str],
    subset: SubsetConfig,
    findings: Findings,
) -> dict[str, Path]:
    """Return the mask of each image.

    Args:
        images: paths.
        headers: of the images that can be read, by path.
        masks: stem to path. A mask is named like its image but for suffix, letter case and accents.
        subset: of the images.
        findings: gets an error for each image without a mask, and for each mask that cannot be
            read or has another aspect ratio.
    """
    errors = Findings()
    matches = _match_names(images, masks, subset, errors)
    paths = list(dict.fromkeys(matches.values()))
    mask_headers = dict(zip(paths, read_many(read_header, paths), strict=True))
    usable: dict[str, Path] = {}
    for image, mask in matches.items():
        header = mask_headers[mask]
        if isinstance(header, OSError):
            errors.error(f"unreadable mask: {header}", mask, "replace the file")
            continue
        usable[image] = Path(mask)
        if image in headers:
            _check_shape(header, headers[image], mask, subset, errors)
    findings.errors += group_problems(errors.errors, "mask")
    return usable


def _match_names(
    images: Sequence[str], masks: Mapping[str, str], subset: SubsetConfig, findings: Findings
) -> dict[str, str]:
    similar: dict[str, str] = {}
    for stem, path in masks.items():
        similar.setdefault(normalized(stem), path)
    matches = {}
    for image in images:
        stem = Path(image).stem
        mask = masks.get(stem) or similar.get(normalized(stem))
        if mask:
            matches[image] = mask
        else:
            hint = f"put an image of the same name into {subset.mask_dir}"
            findings.error("the image has no mask", image, hint)
    return matches


def _check_shape(
    mask: Header, image: Header, mask_path: str, subset: SubsetConfig, findings: Findings
) -> None:
    """Add an error where a mask cannot be rescaled to its image."""
    mask_wh, image_wh = displayed_size(mask, subset), displayed_size(image, subset)
    # The same aspect ratio, within a pixel of the mask
    if abs(mask_wh[0] * image_wh[1] - mask_wh[1] * image_wh[0]) > max(image_wh):
        sizes = f"{mask_wh[0]}x{mask_wh[1]}, and its image {image_wh[0]}x{image_wh[1]}"
        hint = "give both the same size, or at least the same aspect ratio"
        findings.error(f"the mask is {sizes}", mask_path, hint)


def displayed_size(header: Header, subset: SubsetConfig) -> Size:
    """Return an image's size as training sees it: upright, unless sd-scripts is followed."""
    return header.stored_wh if subset.images.as_reference else header.upright_wh
