"""Saved states of runs: where they are, what they hold, and whether they fit a run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coinage.config import LoopConfig, TrainConfig
from coinage.data.batches import length_of
from coinage.data.sample import Sample
from coinage.errors import CoinageError, Findings
from coinage.later_fields import set_later, with_set_later
from coinage.runs.digests import digest_of_images, digest_of_weights
from coinage.runs.files import STATE, listed, rest_of
from coinage.system.launch import process_count
from coinage.system.text_files import read_json
from coinage.system.typed_json import decode
from coinage.wording import counted, few

SUMMARY, TENSORS = "state.json", "state.pt"
MOST_SUMMARY, MOST_TENSORS = 2**20, 2**31  # bytes; 10 kB and some MB are usual
MOST_STEPS = 10**12
LATEST = "latest"
REFERENCE = ("optimizer.bin", "random_states_0.pkl")  # in the state folders of sd-scripts
# What a run cannot go on with when it differs; a difference in the rest is a warning.
NEEDED = ("family", "word", "vectors", "optimizer", "optimizer_args")
MODEL, IMAGES = "weights", "images"  # digests of files; states of earlier versions have none
COMPANIONS = "companion_files"
# Of a run whose word learns from the first step to the last, and has no other words in its captions
BESIDE: Mapping[str, Any] = {"learns_with": [], "companions": [], "start_step": 0, "end_step": None}
WORDS = {
    COMPANIONS: "files of words that stay as they are were replaced under their names",
    "dataset": "the dataset is another",
    MODEL: "the model's weights are others, under the same name",
    IMAGES: "images were replaced under their names",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a state says of itself, beside its tensors.

    Attributes:
        step: optimizer steps done.
        epoch: to go on with, counted from 1.
        done: steps done within that epoch.
        fingerprint: what the run was, field by field.
        digest: of the tensors' file.
    """

    step: int
    epoch: int
    done: int
    fingerprint: Mapping[str, Any]
    digest: str

    def as_json(self) -> bytes:
        """Return what is written beside the tensors, after them: a state without it is not whole."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def digest_of(data: bytes) -> str:
    """Return a digest of bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def fingerprint(config: TrainConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what makes two runs the same to the bit, field by field, as plain values."""
    word, optim = config.word, config.optim
    images = [_identity(sample) for sample in samples]
    batches_per_step = process_count() * optim.accumulation
    return {
        "family": config.model.family,
        "word": word.token,
        "vectors": word.num_vectors,
        "optimizer": optim.name,
        "optimizer_args": dict(optim.arguments),
        "learning_rate": optim.learning_rate,
        "norm_mode": optim.norm_mode,
        "lr_scheduler": optim.schedule_class or optim.schedule,
        "model": Path(config.model.source).name,
        "precision": config.model.precision,
        "seed": config.loop.seed,
        "max_train_steps": config.loop.max_steps,
        "images_per_step": [batches_per_step * size for size in config.data.batch_sizes],
        "dataset": digest_of(repr(images).encode(errors="surrogatepass")),
        "noise": with_set_later(config.noise),
        "loss": with_set_later(config.loss),
    } | _beside(config)


def _beside(config: TrainConfig) -> dict[str, Any]:
    """Return what other words mean for a run, as far as it differs from `BESIDE`."""
    word = config.word
    fields = {
        "learns_with": [[other.token, other.num_vectors] for other in config.learns_with],
        "companions": [[other.token, other.num_vectors] for other in config.companions],
        "start_step": word.start_step,
        "end_step": word.end_step,
    }
    return {name: value for name, value in fields.items() if value != BESIDE[name]}


def _identity(sample: Sample) -> tuple[Any, ...]:
    """Return what makes an image the same for training."""
    return (
        sample.path.name,
        sample.caption,
        sample.repeats,
        sample.dataset,
        sample.fit,
        sample.subset.captions,
        sample.subset.images,
        *_later_identity(sample),
    )


def _later_identity(sample: Sample) -> Iterator[Any]:
    """Yield what is the same for training too, where it is set: earlier versions had none of it."""
    subset = sample.subset
    for settings in (subset, subset.captions, subset.images):
        if more := set_later(settings):
            yield more
    if sample.draw:
        yield sample.draw


def content_digests(config: TrainConfig, samples: Sequence[Sample]) -> dict[str, str]:
    """Return digests of the files that a run learns from, to notice a replaced file.

    Some kB of each file are read. Files that cannot be read have no digest.
    """
    paths = []
    for sample in samples:
        paths.append(sample.path)
        if sample.mask:
            paths.append(sample.mask)
    digests = {}
    weights = digest_of_weights(config.model.source, config.model.vae)
    if weights:
        digests[MODEL] = weights
    images = digest_of_images(paths)
    if images:
        digests[IMAGES] = images
    files = [word.init_file for word in config.companions if word.init_file]
    if files and (companions := digest_of_images(files)):
        digests[COMPANIONS] = companions
    return digests


def read_summary(folder: Path) -> Summary | None:
    """Read a state's summary; None when the state is incomplete, or holds what cannot be."""
    try:
        summary = decode(Summary, read_json(folder / SUMMARY, most=MOST_SUMMARY), exact=True)
        right = _counts_fit(summary) and _is_known(summary.fingerprint)
        right = right and _digest_of_file(folder / TENSORS) == summary.digest
    except (CoinageError, OSError, ValueError, TypeError):
        return None
    return summary if right else None


def _counts_fit(summary: Summary) -> bool:
    """Return whether the counters can be those of one run: an epoch that has ended had a step at least."""
    step, epoch, done = summary.step, summary.epoch, summary.done
    return 0 <= done <= step <= MOST_STEPS and 1 <= epoch <= step - done + 1


def _is_known(fingerprint: Mapping[str, Any]) -> bool:
    """Return whether a fingerprint has at least what a run cannot go on without."""
    return set(NEEDED) <= set(fingerprint) and type(fingerprint.get("seed")) is int


def _digest_of_file(path: Path) -> str | None:
    """Return a regular file's digest, as `digest_of`; None for anything else, and where it is too large."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_TENSORS:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def states_of(folder: Path, name: str) -> dict[int, Path]:
    """Return the whole states of a run, by their steps.

    States of another run whose name begins alike are not among them.
    """
    states: dict[int, Path] = {}
    for path in reversed(list(listed(folder, name))):
        if not path.name.endswith(STATE) or rest_of(path, name) is None or not path.is_dir():
            continue
        summary = read_summary(path)
        if summary:
            states[summary.step] = path
    return states


def latest_state(folder: Path, name: str) -> Path | None:
    """Return the whole state of a run with the most steps."""
    states = states_of(folder, name)
    return states[max(states)] if states else None


def named_state(resume: str | None, output_dir: Path, name: str) -> Path | None:
    """Return the folder that `--resume` means, whether or not it is there; None where there is nothing.

    Args:
        resume: `latest`, a state's folder, a file in it, or a folder that holds states.
        output_dir: where `latest` looks.
        name: of the run.
    """
    if resume == LATEST and not Path(LATEST).is_dir():
        return latest_state(output_dir, name)
    if not resume:
        return None
    path = Path(resume)
    if path.name in (SUMMARY, TENSORS) and path.is_file():
        return path.parent
    if path.is_dir() and not (path / SUMMARY).exists():
        return latest_state(path, name) or path
    return path


def find_state(config: TrainConfig, samples: Sequence[Sample], findings: Findings) -> Path | None:
    """Return the state that `--resume` names; what does not fit goes into `findings`."""
    resume, name = config.state.resume, config.word.output_name
    if resume is None:
        return None
    folder = named_state(resume, config.save.output_dir, name)
    if folder is None:
        findings.note(
            f"--resume latest: no state in {config.save.output_dir} yet, so the run starts from the beginning"
        )
        return None
    if not folder.is_dir():
        _report_missing_folder(folder, findings)
        return None
    if any((folder / file).is_file() for file in REFERENCE):
        hint = "go on from its embedding instead: --weights FILE"
        findings.error(
            "--resume: a state of another trainer, whose step and data position are not in it",
            str(folder),
            hint,
        )
        return None
    summary = read_summary(folder)
    if summary is None:
        _report_incomplete(folder, name, findings)
        return None
    if resume != LATEST and Path(resume) != folder:
        findings.note(f"--resume {resume}: the state is {folder}")
    now = fingerprint(config, samples) | content_digests(config, samples)
    compare(summary.fingerprint, now, str(folder), findings)
    length, _ = length_of(config, samples, process_count())
    _warn_of_finished_run(summary.step, length, config.loop, str(folder), findings)
    return folder


def _report_missing_folder(path: Path, findings: Findings) -> None:
    """Add an error that says why there is no state's folder at a path."""
    if path.exists():
        hint = "--weights FILE starts from an embedding; a state is a folder that ends in -state"
        findings.error("--resume: this is a file, not a state's folder", str(path), hint)
    else:
        findings.error(
            "--resume: no such folder", str(path), "give a folder that ends in -state, or latest"
        )


def _report_incomplete(folder: Path, name: str, findings: Findings) -> None:
    """Add an error that says why a run cannot go on from a folder."""
    others = sorted(path.name for path in folder.glob(f"*{STATE}") if (path / SUMMARY).is_file())
    if (folder / SUMMARY).exists() or (folder / TENSORS).exists() or folder.name.endswith(STATE):
        hint = "use an earlier one; --resume latest finds it"
        findings.error("--resume: the state is incomplete", str(folder), hint)
    elif others:
        hint = f"name one of the states in it: {few(others)}"
        findings.error(f"--resume: the folder holds no whole state of {name}", str(folder), hint)
    else:
        hint = "give a folder that ends in -state, or latest"
        findings.error("--resume: the folder holds no state", str(folder), hint)


def _warn_of_finished_run(
    step: int, length: int, loop: LoopConfig, where: str, findings: Findings
) -> None:
    """Warn where a state leaves nothing to learn.

    It is not an error: a command that is started again and again must end well.
    """
    if step < length:
        return
    flag = "--max_train_steps" if loop.max_epochs is None else "--max_train_epochs"
    what = f"the state is of step {step}, and the run has {counted(length, 'step')}"
    findings.warn(
        f"--resume: nothing is left to learn: {what}", where, f"to go on, pass a larger {flag}"
    )


def compare(
    then: Mapping[str, Any], now: Mapping[str, Any], where: str, findings: Findings
) -> None:
    """Report every field in which a state and a run differ, but for those that an older state lacks.

    Args:
        then: the state's fingerprint.
        now: the run's.
        where: the state's folder.
        findings: get an error where the run cannot go on, a warning otherwise.
    """
    # Some are written only where they are others
    then = {"norm_mode": "none"} | dict(BESIDE) | dict(then)
    now = dict(BESIDE) | json.loads(json.dumps(now))
    differing = []
    for field, value in now.items():
        if field in then and then[field] != value:
            differing.append(field)
    if "dataset" in differing and IMAGES in differing:
        differing.remove(IMAGES)  # the dataset's warning is enough
    if "model" in differing and MODEL in now and now[MODEL] == then.get(MODEL):
        differing.remove("model")  # the same file under another name
    for field in differing:
        shown = WORDS.get(field) or f"{field} was {then[field]!r} and is {now[field]!r}"
        if field in NEEDED:
            findings.error(
                f"--resume: {shown}", where, "pass the value that the state was trained with"
            )
        else:
            findings.warn(f"--resume: {shown}; the run goes on, but not as it would have", where)
