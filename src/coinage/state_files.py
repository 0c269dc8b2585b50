"""Saved states of runs: where they are, what they say of themselves, whether they fit a run. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coinage.config import TrainConfig
from coinage.data.sample import Sample
from coinage.errors import Findings, Problem
from coinage.launch import process_count

SUFFIX = "-state"
SAVED = re.compile(r"(-\d{6,}|-step\d{8,})?")  # what comes after a run's name: of an epoch, of a step, or of its end
SUMMARY, TENSORS = "state.json", "state.pt"
LATEST = "latest"
REFERENCE = ("optimizer.bin", "random_states_0.pkl")  # in the state folders of the reference trainer
# What a run cannot go on with when it differs; a difference in the rest is told, and the run goes on.
NEEDED = ("family", "word", "vectors", "optimizer", "optimizer_args")


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
        """What is written beside the tensors, after them: a state without it is not whole."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def digest_of(data: bytes) -> str:
    """A digest of bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def fingerprint(config: TrainConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    """What makes two runs the same to the bit, field by field, as plain values."""
    word, optim = config.word, config.optim
    images = [(s.path.name, s.caption, s.repeats, s.dataset, s.fit, s.subset.captions, s.subset.images) for s in samples]
    return {
        "family": config.model.family,
        "word": word.token,
        "vectors": word.num_vectors,
        "optimizer": optim.name,
        "optimizer_args": dict(optim.arguments),
        "learning_rate": optim.learning_rate,
        **({"norm_mode": optim.norm_mode} if optim.norm_mode != "none" else {}),
        "lr_scheduler": optim.schedule_class or optim.schedule,
        "model": Path(config.model.source).name,
        "precision": config.model.precision,
        "seed": config.loop.seed,
        "max_train_steps": config.loop.max_steps,
        "images_per_step": [process_count() * optim.accumulation * dataset.batch_size for dataset in config.data.datasets],
        "dataset": digest_of(repr(images).encode(errors="surrogatepass")),
        "noise": asdict(config.noise),
        "loss": asdict(config.loss),
    }


def read_summary(folder: Path) -> Summary | None:
    """A state's summary; None when the state is not whole."""
    try:
        summary = Summary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
        whole = digest_of((folder / TENSORS).read_bytes()) == summary.digest
        placed = min(summary.step, summary.done) >= 0 and summary.epoch >= 1
        told = isinstance(summary.fingerprint, dict) and isinstance(summary.fingerprint.get("seed"), int)
    except (OSError, ValueError, TypeError):
        return None
    return summary if whole and placed and told else None


def states_of(folder: Path, name: str) -> dict[int, Path]:
    """The whole states of a run, by their steps; not those of another whose name begins alike."""
    paths = [
        path
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        if path.name.startswith(name) and SAVED.fullmatch(path.name.removeprefix(name).removesuffix(SUFFIX)) and path.is_dir()
    ]
    return {summary.step: path for path in reversed(paths) if (summary := read_summary(path))}


def latest_state(folder: Path, name: str) -> Path | None:
    """The whole state of a run with the most steps."""
    states = states_of(folder, name)
    return states[max(states)] if states else None


def named_state(resume: str | None, output_dir: Path, name: str) -> Path | None:
    """The folder that `--resume` means, whether or not it is there; None where there is nothing to go on from."""
    if resume == LATEST and not Path(LATEST).is_dir():
        return latest_state(output_dir, name)
    return Path(resume) if resume else None


def find_state(config: TrainConfig, samples: Sequence[Sample], findings: Findings) -> Path | None:
    """The state that `--resume` names, if it fits; what does not fit is found."""
    if config.state.resume is None:
        return None
    folder = named_state(config.state.resume, config.save.output_dir, config.word.output_name)
    if folder is None:
        findings.note(f"--resume latest: no state in {config.save.output_dir} yet, so the run starts from the beginning")
        return None
    if not folder.is_dir():
        findings.error("--resume: no such folder", str(folder), "give a folder that ends in -state, or latest")
        return None
    if any((folder / name).is_file() for name in REFERENCE):
        hint = "go on from its embedding instead: --weights FILE"
        findings.error("--resume: a state of another trainer, whose step and data position are not in it", str(folder), hint)
        return None
    summary = read_summary(folder)
    if summary is None:
        findings.error("--resume: the state is not whole", str(folder), "use an earlier one; --resume latest finds it")
        return None
    compare(summary.fingerprint, fingerprint(config, samples), str(folder), findings)
    return folder


def compare(then: Mapping[str, Any], now: Mapping[str, Any], where: str, findings: Findings) -> None:
    """Tell every field in which a state and a run differ."""
    now = json.loads(json.dumps(now))
    for field, value in now.items():
        before = then.get(field)
        if before == value:
            continue
        shown = f"{field} was {before!r} and is {value!r}" if field != "dataset" else "the dataset is another"
        if field in NEEDED:
            findings.errors.append(Problem(f"--resume: {shown}", where, "pass the value that the state was trained with"))
        else:
            findings.warn(f"--resume: {shown}; the run goes on, but not as it would have", where)
