"""Look at the folders that a run reads and writes, and at models and tokenizers. Imports no torch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from coinage.demo.worlds import MODELS
from coinage.doctor.examination import Result
from coinage.errors import CoinageError, Findings
from coinage.models.facts import FACTS, FamilyFacts
from coinage.models.tokenizer_files import local_tokenizer
from coinage.runs.lock import locks_work
from coinage.system.cache_folder import cache_folder
from coinage.wording import sized

MB, GB = 2**20, 2**30
TOO_LITTLE = 100 * MB  # for a word, its report and previews
LITTLE = {"hub cache": 8 * GB}  # a model of SDXL has 7 GB


def folders() -> dict[str, Path]:
    """Return the folders that runs write in, by what they are for."""
    from huggingface_hub import constants

    found = {
        "this folder": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "hub cache": Path(constants.HF_HUB_CACHE),
    }
    try:
        found["Coinage's cache"] = cache_folder()
    except RuntimeError:  # no home
        found["Coinage's cache"] = Path(tempfile.gettempdir())
    return found


def look_at_folders() -> Sequence[Result]:
    """Look whether each folder can be written, and how much room its disk has."""
    findings = Findings()
    shown = []
    for name, folder in folders().items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                free = shutil.disk_usage(place).free
        except OSError as error:
            hint = "give yourself the right to write there, or choose another folder"
            findings.error(f"{name}: cannot write there: {error.strerror}", str(folder), hint)
            continue
        shown.append(f"{name} {sized(free)} free")
        if free < TOO_LITTLE:
            findings.error(f"{name}: the disk is full", str(folder), "delete what you do not need")
        elif free < LITTLE.get(name, GB):
            what = f"{name}: only {sized(free)} are free; a model takes 2 to 7 GB"
            findings.warn(what, str(folder), "free some space, or set HF_HOME to another disk")
    if not locks_work(Path.cwd()):
        what = "the file system of this folder has no locks: two runs could write the same files"
        findings.warn(what, hint="write words to a disk of this computer")
    return [Result("folders", ", ".join(shown), findings)]


def _is_whole(folder: Path, facts: FamilyFacts) -> bool:
    parts = ("model_index.json", *facts.folders)
    return all((folder / part).exists() for part in parts)


def look_at_models() -> Sequence[Result]:
    """Look at the built-in models, and at the tokenizer for models in single files."""
    findings = Findings()
    whole = [name for name, facts in FACTS.items() if _is_whole(MODELS / name, facts)]
    if whole != list(FACTS):
        what = "the built-in models are not complete"
        findings.error(what, hint="install Coinage again: pip install --force-reinstall coinage-ti")
    try:
        tokenizer = local_tokenizer()
    except CoinageError as error:
        tokenizer = None
        findings.errors += error.problems
    if tokenizer is None and not findings.errors:
        what = "there is no CLIP tokenizer here, which models in a single file need"
        findings.warn(
            what, hint="connect to the network at the first run, or pip install open_clip_torch"
        )
    about = "there is a CLIP tokenizer" if tokenizer else "no CLIP tokenizer"
    return [Result("models", f"built in: {', '.join(whole) or 'none'}; {about}", findings)]
