"""Check a dataset for one word without loading a model, and return its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coinage.checks.word import tokenizer_of
from coinage.config import LoopConfig, TrainConfig, WordConfig
from coinage.data.batches import run_length
from coinage.data.examine import ExaminedDataset, examine
from coinage.data.summary import DatasetSummary, SampleSummary, summarize, summarize_sample
from coinage.data_config import DataConfig
from coinage.errors import Findings, Problem
from coinage.models.facts import DEFAULT, FACTS
from coinage.text.placeholder import CHUNK, pieces_of, vocabulary_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetQuery:
    """Which dataset to check, for which word and tokenizer.

    Attributes:
        data: the datasets.
        token: the word; "" for none.
        num_vectors: of the word.
        model: whose tokenizer counts tokens: a path or a hub id; None: tokens are not counted.
        tokenizer_cache: folder for tokenizers of the hub.
        chunks: of 75 tokens that are read of a caption.
        seed: of the run.
        loop: length of the run, which is counted in steps where it is given.
        accumulation: batches per step.
        beside: other words that captions may hold.
        learning: those of them that learn from the same captions.
    """

    data: DataConfig
    token: str = ""
    num_vectors: int = 1
    model: str | None = None
    tokenizer_cache: Path | None = None
    chunks: int = 1
    seed: int = 0
    loop: LoopConfig | None = None
    accumulation: int = 1
    beside: tuple[WordConfig, ...] = ()
    learning: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """A dataset as training sees it, with all problems; `summarize_dataset` returns it.

    Attributes:
        summary: counts, buckets, captions; empty where no image can be used.
        samples: each image as training sees it.
        findings: errors, warnings and notes.
        examined: the images themselves, for a contact sheet.
        token: the word; "" for none.
        steps: of the run; None where its length is not known.
        epochs: of the run; None where its length is not known.
    """

    summary: DatasetSummary
    samples: tuple[SampleSummary, ...]
    findings: Findings
    examined: ExaminedDataset = field(repr=False)
    token: str = ""
    steps: int | None = None
    epochs: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values, as `coinage dataset --json` prints it."""
        values = asdict(self.summary)
        if values["captions"] and values["captions"]["tokens"] is None:
            del values["captions"]["tokens"]
        if self.steps is not None:
            values |= {"steps": self.steps, "epochs": self.epochs}
        values["samples"] = [asdict(sample) for sample in self.samples]
        return values | findings_as_json(self.findings)


def summarize_dataset(config: TrainConfig, findings: Findings | None = None) -> DatasetReport:
    """Check the dataset of a run and return its summary; reads images and captions, no model.

    Args:
        config: the run; its model gives the tokenizer.
        findings: is added to, where given.

    Returns:
        The summary. Problems are in its `findings`, which raise nothing by themselves.
    """
    facts = FACTS.get(config.model.family, DEFAULT)  # a dataset may be checked without a model
    query = DatasetQuery(
        data=config.data,
        token=config.word.token,
        num_vectors=config.word.num_vectors,
        model=config.model.source,
        tokenizer_cache=config.model.tokenizer_cache,
        chunks=facts.chunks_read(config.model.max_token_length // CHUNK),
        seed=config.loop.seed,
        loop=config.loop,
        accumulation=config.optim.accumulation,
        beside=(*config.learns_with, *config.companions),
        learning=tuple(other.token for other in config.learns_with),
    )
    return check_dataset(query, findings or Findings())


def check_dataset(query: DatasetQuery, findings: Findings) -> DatasetReport:
    """Check a dataset for a word and return its summary.

    Args:
        query: which dataset, word and tokenizer.
        findings: gets errors, warnings and notes, and is part of the result.
    """
    examined = _examine(query, findings)
    summary = summarize(query.data, examined)
    steps = epochs = None
    if query.loop and summary.batches_per_epoch:
        steps, epochs = run_length(query.loop, query.accumulation, summary.batches_per_epoch)
    samples = tuple(
        summarize_sample(index, examined, query.token, query.seed, query.chunks)
        for index in range(len(examined.samples))
    )
    return DatasetReport(
        summary=summary,
        samples=samples,
        findings=findings,
        examined=examined,
        token=query.token,
        steps=steps,
        epochs=epochs,
    )


def _examine(query: DatasetQuery, findings: Findings) -> ExaminedDataset:
    tokenizer = None
    if query.model:
        tokenizer = tokenizer_of(query.model, findings, query.tokenizer_cache)
        if tokenizer is None:
            what = "no tokenizer found, so token ids are not shown"
            findings.warn(what, query.model, "give a diffusers folder or a hub id")
    if tokenizer and query.token:
        pieces = pieces_of(query.token, query.num_vectors)
        vocabulary = tokenizer.get_vocab()
        findings.errors += vocabulary_problems(pieces, vocabulary, str(query.model))
    return examine(
        query.data,
        query.seed,
        query.token or None,
        query.num_vectors,
        tokenizer,
        query.chunks,
        findings,
        decode=True,
        beside=query.beside,
        learning=query.learning,
    )


def findings_as_json(findings: Findings) -> dict[str, Any]:
    """Return errors, warnings and notes as plain values."""
    return {
        "errors": _problems_as_json(findings.errors),
        "warnings": _problems_as_json(findings.warnings),
        "notes": findings.notes,
    }


def _problems_as_json(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"what": p.what, "where": p.where, "hint": p.hint} for p in problems]
