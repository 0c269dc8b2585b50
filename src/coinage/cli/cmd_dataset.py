"""`coinage dataset`, and `--debug_dataset` of the training scripts: a dataset checked and shown, without a model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinage.checks.word import tokenizer_of
from coinage.cli.parse import Parser, parse
from coinage.config import DataConfig, LoopConfig, TrainConfig
from coinage.data.batches import run_length
from coinage.data.examine import DataChecked, examine
from coinage.data.summary import describe_sample, summarize
from coinage.errors import ConfigError, Findings, Problem
from coinage.models.detect import told_family
from coinage.report.contact_sheet import contact_sheet
from coinage.settings.build_data import build_data
from coinage.settings.discover import with_own_size
from coinage.settings.idle_flags import notes
from coinage.system.files import write_bytes
from coinage.system.text_files import is_folder
from coinage.terminal.messages import print_json, print_line, print_table
from coinage.text.placeholder import CHUNK, encoding_problems, pieces_of, vocabulary_problems
from coinage.wording import counted

log = logging.getLogger("coinage")
EXAMPLES = """\
examples:
  coinage dataset dataset.toml --token mychar
  coinage dataset dataset.toml --token mychar --num_vectors 4 --model path/to/model --html dataset.html
  coinage dataset path/to/images --resolution 512 --enable_bucket

All data flags of the training scripts work here too; docs/flags.md lists them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which dataset to look at, for which word and model, and how to show it."""

    data: DataConfig
    token: str | None
    num_vectors: int
    model: str | None
    tokenizer_cache: Path | None
    chunks: int
    seed: int
    loop: tuple[LoopConfig, int] | None = None  # length of the run, and accumulation
    as_json: bool = False
    html: Path | None = None
    json_file: Path | None = None
    shown: int = 3  # samples printed with their captions


def dataset_parser() -> Parser:
    """The parser of the command's own flags; the others are the training scripts'."""
    import argparse

    parser = Parser(
        prog="coinage dataset",
        usage="coinage dataset CONFIG [flags]",
        description="Check a dataset and show what training would see.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--token", help="The word that captions should hold.")
    parser.add_argument(
        "--num_vectors", type=int, default=1, help="Vectors that the word takes. Default: 1."
    )
    parser.add_argument(
        "--model", help="Model whose tokenizer counts tokens: a diffusers folder or a hub id."
    )
    parser.add_argument(
        "--sdxl", action="store_true", help="Bucket sides may be multiples of 32, as for SDXL."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="Write a contact sheet: every image as cut, with captions and token ids.",
    )
    return parser


def dataset_command(argv: Sequence[str]) -> None:
    """Run `coinage dataset`.

    Raises:
        ConfigError: the dataset has errors; they come after the summary.
    """
    parser = dataset_parser()
    if not argv or argv[0].startswith("-"):
        parser.parse_known_args(argv)  # --help
        raise ConfigError(
            [Problem("no dataset given", hint="coinage dataset dataset.toml --token mychar")]
        )
    source = Path(argv[0])
    own, rest = parser.parse_known_args(argv[1:])
    script = "sdxl" if own.sdxl or (own.model and told_family(own.model) == "sdxl") else "sd"
    args = parse(script, [*rest, f"--dataset_config={source}"], "coinage dataset")
    if is_folder(source):
        args = with_own_size(args, own.model or args.pretrained_model_name_or_path)
    remarks = args.remarks
    findings = Findings(warnings=[*remarks.warnings], notes=[*remarks.notes, *notes(args)])
    data = build_data(
        args,
        "sdxl" if script == "sdxl" else "sd1",
        findings,
        look_into_folders=True,
        folder=source if is_folder(source) else None,
    )
    num_vectors = max(own.num_vectors, args.num_vectors_per_token)
    if not 1 <= num_vectors <= CHUNK:
        findings.error(f"--num_vectors {num_vectors} does not fit in a prompt of {CHUNK} tokens")
    findings.errors += encoding_problems([("--token", own.token)])
    if findings.errors:
        _tell(findings, as_json=own.json)
    findings.raise_errors()
    if args.seed is None and any(
        s.validation_split for d in data.datasets for s in d.subsets if d.validation_seed is None
    ):
        findings.note(
            "the seed chooses the images held out: pass the --seed that you train with, or set validation_seed"
        )
    question = Question(
        data=data,
        token=own.token or args.token_string,
        num_vectors=num_vectors,
        model=own.model or args.pretrained_model_name_or_path,
        tokenizer_cache=Path(args.tokenizer_cache_dir) if args.tokenizer_cache_dir else None,
        chunks=(args.max_token_length or CHUNK) // CHUNK,
        seed=args.seed or 0,
        as_json=own.json,
        html=own.html,
    )
    answer(question, findings)


def show_dataset(config: TrainConfig, findings: Findings, folder: str | None) -> None:
    """What `--debug_dataset` does: check and show the data of a training command.

    Raises:
        ConfigError: the dataset has errors; they come after the summary.
    """
    word = config.word
    question = Question(
        data=config.data,
        token=word.token,
        num_vectors=word.num_vectors,
        model=config.model.source,
        tokenizer_cache=config.model.tokenizer_cache,
        chunks=config.model.max_token_length // CHUNK,
        seed=config.loop.seed,
        loop=(config.loop, config.optim.accumulation),
        html=Path(folder) / "dataset.html" if folder else None,
        json_file=Path(folder) / "dataset.json" if folder else None,
        shown=10,
    )
    answer(question, findings)


def answer(question: Question, findings: Findings) -> None:
    """Check, print, write; then stop if there are errors.

    Raises:
        ConfigError: all errors together.
    """
    checked = _examined(question, findings)
    if not checked.samples:
        _tell(findings, as_json=question.as_json)
        findings.raise_errors()
    summary = summarize(question.data, checked)
    if question.loop:
        summary["steps"], summary["epochs"] = run_length(
            *question.loop, summary["batches_per_epoch"]
        )
    samples = [
        describe_sample(i, checked, question.token, question.seed, question.chunks)
        for i in range(len(checked.samples))
    ]
    whole = summary | {"samples": samples, **_told(findings)}
    if question.as_json:
        print_json(whole)
    else:
        print_summary(summary, samples[: question.shown], checked)
        _tell(findings, as_json=False)
    if question.html:
        write_bytes(
            question.html,
            contact_sheet(whole, checked, question.token or "").encode(errors="replace"),
        )
        log.info("wrote %s", question.html)
    if question.json_file:
        write_bytes(question.json_file, json.dumps(whole, indent=1).encode())
        log.info("wrote %s", question.json_file)
    findings.raise_errors()


def _examined(question: Question, findings: Findings) -> DataChecked:
    """The dataset with the word and the tokenizer it is asked for."""
    token, tokenizer = question.token, None
    if question.model:
        tokenizer = tokenizer_of(question.model, findings, question.tokenizer_cache)
        if tokenizer is None:
            findings.warn(
                "no tokenizer found, so token ids are not shown",
                question.model,
                "give a diffusers folder or a hub id",
            )
    if tokenizer and token:
        findings.errors += vocabulary_problems(
            pieces_of(token, question.num_vectors), tokenizer.get_vocab(), str(question.model)
        )
    return examine(
        question.data,
        question.seed,
        token,
        question.num_vectors,
        tokenizer,
        question.chunks,
        findings,
        decode=True,
    )


def _tell(findings: Findings, *, as_json: bool) -> None:
    """Say what was found but the errors, which follow; as JSON, the errors too."""
    if as_json:
        print_json(_told(findings))
        return
    for note in findings.notes:
        log.info("note: %s", note)
    for warning in findings.warnings:
        log.warning("%s", warning)


def _told(findings: Findings) -> dict[str, Any]:
    def plain(problems: Sequence[Problem]) -> list[dict[str, str]]:
        return [{"what": p.what, "where": p.where, "hint": p.hint} for p in problems]

    return {
        "errors": plain(findings.errors),
        "warnings": plain(findings.warnings),
        "notes": findings.notes,
    }


def print_summary(
    summary: dict[str, Any], samples: Sequence[dict[str, Any]], checked: DataChecked
) -> None:
    """The summary as tables on stdout."""
    kinds = [counted(summary["images"], "image")]
    kinds += [
        f"{summary[key]} {name}"
        for key, name in (("held_out", "held out"), ("regularisation", "regularisation"))
        if summary[key]
    ]
    batches = counted(summary["batches_per_epoch"], "batch", "batches")
    kinds += (
        [f"{summary['uses_per_epoch']:,} with repeats"]
        if summary["uses_per_epoch"] != summary["images"]
        else []
    )
    print_line(f"{', '.join(kinds)}, {batches} per epoch")
    if "steps" in summary:
        print_line(f"{counted(summary['steps'], 'step')}, {counted(summary['epochs'], 'epoch')}")
    for number, dataset in enumerate(summary["datasets"], 1):
        _print_dataset(number, dataset)
    print_line()
    for line in _caption_lines(summary):
        print_line(line)
    labels = (
        ("rotated", "turned upright"),
        ("enlarged_over_2x", "smaller than half the training size"),
        ("tiny", "tiny"),
        ("much_cut", "more than a quarter cropped"),
    )
    for key, label in labels:
        if summary[key]:
            print_line(f"{label}: {len(summary[key])} ({_some(summary[key])})")
    for sample in samples:
        _print_sample(sample, checked)


def _some(paths: Sequence[str]) -> str:
    return ", ".join(Path(path).name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")


def _print_dataset(number: int, dataset: dict[str, Any]) -> None:
    width, height = dataset["resolution"]
    print_line()
    print_line(f"dataset {number}: {width}x{height}, batch size {dataset['batch_size']}")
    for subset in dataset["subsets"]:
        kind = ", regularisation" if subset["regularisation"] else ""
        print_line(
            f"  {subset['source']}: {counted(subset['images'], 'image')} x {subset['repeats']}{kind}"
        )
        for setting, where in subset["settings"]:
            print_line(f"    {setting}  ({where})")
    rows = []
    for bucket in dataset["buckets"]:
        size = "x".join(map(str, bucket["size"]))
        last = (
            "full"
            if not bucket["short_batch"]
            else f"{bucket['short_batch']} of {dataset['batch_size']}"
        )
        lonely = " (fills no batch)" if bucket["lonely"] else ""
        rows.append(
            (
                size,
                str(bucket["images"]),
                str(bucket["uses"]),
                str(bucket["batches"]),
                last + lonely,
            )
        )
    print_table(("bucket", "images", "uses", "batches", "last batch"), rows, right=range(1, 5))
    print_line(f"average cropping {dataset['mean_cropping']:.0%}")
    if dataset["short_batches"]:
        print_line(
            f"{counted(dataset['short_batches'], 'incomplete batch', 'incomplete batches')} per epoch"
        )


def _caption_lines(summary: dict[str, Any]) -> list[str]:
    captions = summary["captions"]
    if captions is None:
        return ["captions: give --token to see whether they contain the word"]
    held = captions["always_hold_the_word"]
    lines = [
        f"captions: {held} of {captions['total']} {'contains' if held == 1 else 'contain'} the word"
    ]
    if captions["sometimes"] or captions["cut_off"]:
        lines[0] += (
            f", {captions['sometimes']} only sometimes; it is cut off in {captions['cut_off']}"
        )
    tokens = captions.get("tokens")
    if tokens is None:
        return [*lines, "tokens: give --model to count them"]
    longest = ", ".join(f"{Path(x['path']).name} {x['tokens']}" for x in tokens["longest"][:3])
    most, over = max(x["tokens"] for x in tokens["longest"]), tokens["longer_than_limit"]
    text = (
        f"tokens per caption: median {tokens['median']:g}, longest {most} (limit {tokens['limit']})"
    )
    text += f"; {counted(over, 'caption')} over it: {longest}" if over else f"; {longest}"
    ids = summary["word"]["ids"] if summary["word"] else []
    shown = (
        f"word: ids {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"word: id {ids[0]}" if ids else ""
    )
    return [*lines, text, *([shown] if shown else [])]


def _print_sample(sample: dict[str, Any], checked: DataChecked) -> None:
    size, bucket, crop = ("x".join(map(str, sample[key])) for key in ("size", "bucket", "crop"))
    print_line()
    print_line(
        f"{sample['path']}  {size} -> {bucket}, cut from {crop.replace('x', ',')}, x{sample['repeats']}"
    )
    print_line(f"  caption: {sample['caption']}")
    word = set(checked.word.ids) if checked.word else set()
    for caption in sample["captions"]:
        if caption["text"] != sample["caption"]:
            print_line(f"  used as: {caption['text']}")
        for chunk in caption["ids"] or []:
            print_line("  ids: " + " ".join(f"[{i}]" if i in word else str(i) for i in chunk))
