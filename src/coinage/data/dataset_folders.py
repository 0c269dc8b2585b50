"""The folder layout of `--train_data_dir`: subfolders such as `10_mychar`, or images themselves."""

from __future__ import annotations

from pathlib import Path

from coinage.data.dataset_config import DatasetDefaults, Layer, make_dataset
from coinage.data.folder import (
    FolderContents,
    describe_contents,
    holds_images,
    list_folder,
    report_other_kinds,
)
from coinage.data_config import DatasetConfig
from coinage.errors import Findings
from coinage.wording import few


def folder_layout(
    root: Path, regularisation: Path | None, defaults: DatasetDefaults, findings: Findings
) -> tuple[DatasetConfig, ...]:
    """Build the dataset of subfolders `N_name`: N repeats, and "name" as caption.

    Args:
        root: holds the subfolders; or images, which are then all of one subset.
        regularisation: the same for regularisation images.
        defaults: what the command line supplies to every dataset.
        findings: gets an error when a folder is missing or has no such subfolder.
    """
    subsets = _subfolders(root, "--train_data_dir", findings)
    if regularisation is not None:
        for layer in _subfolders(regularisation, "--reg_data_dir", findings):
            subsets.append(Layer(layer.name, {**layer.values, "is_reg": True}))
    if findings.errors:
        return ()
    return (make_dataset(list(defaults.layers), subsets, str(root), defaults, findings),)


def _subfolders(root: Path, flag: str, findings: Findings) -> list[Layer]:
    """Return a subset for each subfolder named like `10_mychar`, or one of the images in `root`."""
    errors_before = len(findings.errors)
    contents = list_folder(root, "", f"{flag} folder", findings)
    if len(findings.errors) > errors_before:
        return []
    layers = []
    for folder in contents.folders:
        repeats, name = _repeats_and_name(folder)
        path = str(root / folder)
        if repeats >= 1:
            values = {"image_dir": path, "num_repeats": repeats, "class_tokens": name}
            layers.append(Layer(path, values))
        else:
            findings.warn(f"{path} is not named like 10_mychar and is left out")
    if layers:
        _note_images_beside(contents, root, findings)
        return layers
    if contents.images:
        return [Layer(str(root), {"image_dir": str(root)})]
    report_other_kinds(contents, root, findings)
    if not contents.other_images:
        _report_nothing_usable(contents, root, flag, findings)
    return []


def _note_images_beside(contents: FolderContents, root: Path, findings: Findings) -> None:
    """Note the images beside the subfolders, which are not used."""
    beside = sorted([*contents.images, *contents.other_image_names])
    if beside:
        are = "1 image is" if len(beside) == 1 else f"{len(beside):,} images are"
        what = f"only images in its subfolders are taken; {are} left out: {few(beside)}"
        findings.note(f"{root}: {what}")


def _repeats_and_name(folder: str) -> tuple[int, str]:
    """Return the number in front of a folder's name and the rest; 0 where there is no number."""
    count, _, name = folder.partition("_")
    try:
        return int(count), name
    except ValueError:
        return 0, name


def _report_nothing_usable(
    contents: FolderContents, root: Path, flag: str, findings: Findings
) -> None:
    """Add an error for a folder with neither images nor subfolders to use."""
    inside = describe_contents(contents)
    state = f"holds {inside}" if inside else "is empty"
    what = f"{flag}: no images and no usable subfolder; the folder {state}"
    hint = "put images into it, or into subfolders like 10_mychar (ten repeats of each image)"
    for name in contents.folders:
        if holds_images(str(root / name)):
            renamed = f"rename {name} to 10_{name} (ten repeats of each image)"
            hint = f"{renamed}, or name that folder itself"
            break
    findings.error(what, str(root), hint)
