"""`coinage dataset`, and `--debug_dataset` of the training scripts: check and show a dataset."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from coinage.checks.dataset import (
    DatasetQuery,
    DatasetReport,
    check_dataset,
    findings_as_json,
    summarize_dataset,
)
from coinage.cli.parse import Parser, parse
from coinage.config import TrainConfig
from coinage.data.summary import (
    BucketSummary,
    CaptionSummary,
    DatasetPartSummary,
    SampleSummary,
    TokenSummary,
)
from coinage.data_config import DataConfig
from coinage.errors import ConfigError, Findings, Problem
from coinage.models.facts import DEFAULT, FACTS, SDXL
from coinage.models.hub_files import detect_family
from coinage.report.contact_sheet import contact_sheet
from coinage.settings.build_data import build_data
from coinage.settings.discover import with_own_size
from coinage.settings.idle_flags import notes
from coinage.settings.scripts import script_for
from coinage.system.files import write_bytes
from coinage.system.text_files import is_folder
from coinage.terminal.messages import print_json, print_line, print_table
from coinage.text.placeholder import CHUNK, encoding_problems
from coinage.wording import counted

log = logging.getLogger("coinage")
SHOWN_BY_COMMAND, SHOWN_IN_DEBUG = 3, 10  # images that are printed with their captions
MOST_NAMED = 3  # images in a line
EXAMPLES = """\
examples:
  coinage dataset dataset.toml --token mychar
  coinage dataset dataset.toml --token mychar --num_vectors 4 --model path/to/model --html dataset.html
  coinage dataset path/to/images --resolution 512 --enable_bucket

All data flags of the training scripts work here too; docs/reference/flags.md lists them.
"""


def dataset_parser() -> Parser:
    """Return the parser of the command's own flags; the others are the training scripts'."""
    parser = Parser(
        prog="coinage dataset",
        usage="coinage dataset CONFIG [flags]",
        description="Check a dataset and show what training would see.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--token", help="The word that captions should hold.")
    vectors_help = "Vectors that the word takes. Default: 1."
    parser.add_argument("--num_vectors", type=int, default=1, help=vectors_help)
    model_help = "Model whose tokenizer counts tokens: a diffusers folder or a hub id."
    parser.add_argument("--model", help=model_help)
    sdxl_help = "Bucket sides may be multiples of 32, as for SDXL."
    parser.add_argument("--sdxl", action="store_true", help=sdxl_help)
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
        hint = "coinage dataset dataset.toml --token mychar"
        raise ConfigError([Problem("no dataset given", hint=hint)])
    flags, rest = parser.parse_known_args(argv[1:])
    findings = Findings()
    query = _query(Path(argv[0]), flags, rest, findings)
    if findings.errors:
        _show_findings(findings, as_json=flags.json)
    findings.raise_errors()
    report = check_dataset(query, findings)
    if not report.samples:
        _show_findings(findings, as_json=flags.json)
        findings.raise_errors()
    if flags.json:
        print_json(report.as_json())
    else:
        print_report(report, SHOWN_BY_COMMAND)
    if flags.html:
        _write_contact_sheet(flags.html, report)
    findings.raise_errors()


def _query(
    source: Path, flags: argparse.Namespace, rest: Sequence[str], findings: Findings
) -> DatasetQuery:
    """Return which dataset to check, for which word; add errors for flags that are wrong.

    Args:
        source: a dataset file or a folder of images.
        flags: the command's own.
        rest: flags of the training scripts.
        findings: gets errors, warnings and notes.
    """
    family = detect_family(flags.model) if flags.model else None
    facts = SDXL if flags.sdxl else FACTS[family or DEFAULT.name]
    args = parse(script_for(facts), [*rest, f"--dataset_config={source}"], "coinage dataset")
    folder = source if is_folder(source) else None
    model = flags.model or args.pretrained_model_name_or_path
    if folder:
        args = with_own_size(args, model)
    findings.warnings += args.remarks.warnings
    findings.notes += [*args.remarks.notes, *notes(args)]
    data = build_data(args, facts, findings, look_into_folders=True, folder=folder)
    num_vectors = max(flags.num_vectors, args.num_vectors_per_token)
    if not 1 <= num_vectors <= CHUNK:
        findings.error(f"--num_vectors {num_vectors} does not fit in a prompt of {CHUNK} tokens")
    findings.errors += encoding_problems([("--token", flags.token)])
    if not findings.errors and args.seed is None:
        _note_seed(data, findings)
    return DatasetQuery(
        data=data,
        token=flags.token or args.token_string or "",
        num_vectors=num_vectors,
        model=model,
        tokenizer_cache=Path(args.tokenizer_cache_dir) if args.tokenizer_cache_dir else None,
        chunks=(args.max_token_length or CHUNK) // CHUNK,
        seed=args.seed or 0,
    )


def _note_seed(data: DataConfig, findings: Findings) -> None:
    """Note that the seed, which is not given, chooses the images held out."""
    for dataset in data.datasets:
        holds_out = any(subset.validation_split for subset in dataset.subsets)
        if holds_out and dataset.validation_seed is None:
            hint = "pass the --seed that you train with, or set validation_seed"
            findings.note(f"which images are held out depends on the seed: {hint}")
            return


def show_dataset(config: TrainConfig, findings: Findings, folder: str | None) -> None:
    """Check and show the data of a training command (`--debug_dataset`).

    Raises:
        ConfigError: the dataset has errors; they come after the summary.
    """
    report = summarize_dataset(config, findings)
    if not report.samples:
        _show_findings(findings, as_json=False)
        findings.raise_errors()
    print_report(report, SHOWN_IN_DEBUG)
    if folder:
        _write_contact_sheet(Path(folder) / "dataset.html", report)
        path = Path(folder) / "dataset.json"
        write_bytes(path, json.dumps(report.as_json(), indent=1).encode())
        log.info("wrote %s", path)
    findings.raise_errors()


def _write_contact_sheet(path: Path, report: DatasetReport) -> None:
    page = contact_sheet(
        report.summary, report.samples, report.findings, report.examined, report.token
    )
    write_bytes(path, page.encode(errors="replace"))
    log.info("wrote %s", path)


def _show_findings(findings: Findings, *, as_json: bool) -> None:
    """Show warnings and notes; errors are shown later, but JSON holds them too."""
    if as_json:
        print_json(findings_as_json(findings))
        return
    for note in findings.notes:
        log.info("note: %s", note)
    for warning in findings.warnings:
        log.warning("%s", warning)


def print_report(report: DatasetReport, shown: int) -> None:
    """Print a summary as tables on stdout, and warnings and notes on stderr.

    Args:
        report: of a dataset.
        shown: images that are printed with their captions.
    """
    summary = report.summary
    _print_counts(report)
    for number, dataset in enumerate(summary.datasets, 1):
        _print_dataset(number, dataset)
    print_line()
    for line in _caption_lines(report):
        print_line(line)
    _print_named("turned upright", summary.rotated)
    _print_named("smaller than half the training size", summary.enlarged_over_2x)
    _print_named("tiny", summary.tiny)
    _print_named("more than a quarter cropped", summary.much_cut)
    word_ids = set(report.examined.word.ids) if report.examined.word else set()
    for sample in report.samples[:shown]:
        _print_sample(sample, word_ids)
    _show_findings(report.findings, as_json=False)


def _print_counts(report: DatasetReport) -> None:
    summary = report.summary
    counts = [counted(summary.images, "image")]
    if summary.held_out:
        counts.append(f"{summary.held_out} held out")
    if summary.regularisation:
        counts.append(f"{summary.regularisation} regularisation")
    if summary.uses_per_epoch != summary.images:
        counts.append(f"{summary.uses_per_epoch:,} with repeats")
    batches = counted(summary.batches_per_epoch, "batch", "batches")
    print_line(f"{', '.join(counts)}, {batches} per epoch")
    if report.steps is not None and report.epochs is not None:
        print_line(f"{counted(report.steps, 'step')}, {counted(report.epochs, 'epoch')}")


def _print_named(label: str, paths: Sequence[str]) -> None:
    """Print how many images are special, and the first of their names; nothing for none."""
    if paths:
        names = [Path(path).name for path in paths[:MOST_NAMED]]
        if len(paths) > MOST_NAMED:
            names.append("...")
        print_line(f"{label}: {len(paths)} ({', '.join(names)})")


def _print_dataset(number: int, dataset: DatasetPartSummary) -> None:
    width, height = dataset.resolution
    print_line()
    print_line(f"dataset {number}: {width}x{height}, batch size {dataset.batch_size}")
    for subset in dataset.subsets:
        kind = ", regularisation" if subset.regularisation else ""
        images = counted(subset.images, "image")
        uses = f" x {subset.repeats}"
        if subset.samples_per_epoch:
            uses = f", {counted(subset.samples_per_epoch, 'sample')} per epoch"
        print_line(f"  {subset.source}: {images}{uses}{kind}")
        for setting, where in subset.settings:
            print_line(f"    {setting}  ({where})")
    rows = [_bucket_row(bucket, dataset.batch_size) for bucket in dataset.buckets]
    print_table(("bucket", "images", "uses", "batches", "last batch"), rows, right=range(1, 5))
    print_line(f"average cropping {dataset.mean_cropping:.0%}")
    if dataset.short_batches:
        short = counted(dataset.short_batches, "incomplete batch", "incomplete batches")
        print_line(f"{short} per epoch")


def _bucket_row(bucket: BucketSummary, batch_size: int) -> tuple[str, ...]:
    last = f"{bucket.short_batch} of {batch_size}" if bucket.short_batch else "full"
    if bucket.lonely:
        last += " (fills no batch)"
    counts = (str(bucket.images), str(bucket.uses), str(bucket.batches))
    return (f"{bucket.size[0]}x{bucket.size[1]}", *counts, last)


def _caption_lines(report: DatasetReport) -> list[str]:
    captions = report.summary.captions
    if captions is None:
        return ["captions: give --token to see whether they contain the word"]
    lines = [_coverage_line(captions)]
    if captions.tokens is None:
        return [*lines, "tokens: give --model to count them"]
    lines.append(_tokens_line(captions.tokens))
    word = report.summary.word
    if word:
        first, last = word.ids[0], word.ids[-1]
        lines.append(f"word: ids {first} to {last}" if len(word.ids) > 1 else f"word: id {first}")
    return lines


def _coverage_line(captions: CaptionSummary) -> str:
    count = captions.always_hold_the_word
    contain = "contains" if count == 1 else "contain"
    line = f"captions: {count} of {captions.total} {contain} the word"
    if captions.sometimes or captions.cut_off:
        line += f", {captions.sometimes} only sometimes; it is cut off in {captions.cut_off}"
    return line


def _tokens_line(tokens: TokenSummary) -> str:
    longest = tokens.longest[0].tokens
    line = f"tokens per caption: median {tokens.median:g}, longest {longest} (limit {tokens.limit})"
    if tokens.longer_than_limit:
        line += f"; {counted(tokens.longer_than_limit, 'caption')} over it: "
    else:
        line += "; "
    named = tokens.longest[:MOST_NAMED]
    return line + ", ".join(f"{Path(caption.path).name} {caption.tokens}" for caption in named)


def _print_sample(sample: SampleSummary, word_ids: set[int]) -> None:
    size = "{}x{}".format(*sample.size)
    bucket = "{}x{}".format(*sample.bucket)
    left, top = sample.crop
    print_line()
    cut = f"cut from {left},{top}, x{sample.repeats}"
    print_line(f"{sample.path}  {size} -> {bucket}, {cut}")
    print_line(f"  caption: {sample.caption}")
    for caption in sample.captions:
        if caption.text != sample.caption:
            print_line(f"  used as: {caption.text}")
        for chunk in caption.ids or []:
            ids = [f"[{number}]" if number in word_ids else str(number) for number in chunk]
            print_line(f"  ids: {' '.join(ids)}")
