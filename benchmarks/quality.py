"""Measure how good words are, and at what cost: `python benchmarks/quality.py`.

It takes under three hours on two cores; with `--quick`, five minutes.

On a demo model the truth is known: of the pictures drawn with a learned word, S is the share that
shows the concept, E the share that obeys all else that the prompt asks for (colour, background,
texture, count, shape). Every setting trains the same words from the same images, with equally many
images through the UNet, and is judged with the same prompts and seeds. Differences are paired by
concept; their 95 % intervals are bootstrapped over the concepts (Efron 1979).

First it is shown that the lab can judge: the guide's rate of 1e-6 must teach nothing, and a rate
that is much too high must make the vectors long and their prompts disobeyed. `--peer-script PATH
--peer-args "..."` adds another trainer, see `Lab.peer`. `--newcomer` measures `coinage train` with
nothing but images, word and model, against the same to its full
length: what ending early saves, and what it costs; and against the same from any word that fits:
what the search is worth. `--encoders` measures, on the worlds with CLIP and T5, words that learn in
one kind of text encoder or in both. `--results FILE` keeps all numbers, and goes on from what the file has;
`--only NAME` measures some settings.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path

import numpy as np

from coinage.scoring.intervals import interval
from coinage.system.files import write_bytes
from quality_lab import REACHABLE, Lab, Result, Setting, as_json, from_json, words_for

STEPS = (50, 100, 200)  # of 4 images
RATES = ("5e-3", "1e-2", "2e-2", "5e-2")
ADAMW = "AdamW "
UNTRAINED, NOTHING, TOO_HIGH = "untrained", "sd-scripts' guide", ADAMW + "0.5"
DEFAULT = "coinage train"


def adamw(rate: str) -> tuple[str, ...]:
    """The flags of AdamW at a learning rate."""
    return "--optimizer_type=AdamW", f"--learning_rate={rate}"


# Each step the last gradient, all of one length
PUBLISHED = ("--optimizer_args", "rowwise=True", "betas=0,0", "kappa=1e-4")
SETTINGS = (
    Setting(DEFAULT),
    *(Setting(ADAMW + rate, adamw(rate)) for rate in RATES),
    Setting("clipped AdamW 2e-2", (*adamw("2e-2"), "--norm_mode=clip")),
    Setting(
        NOTHING, ("--optimizer_type=AdamW8bit", "--learning_rate=1e-6", "--num_vectors_per_token=4")
    ),
    Setting(
        "diffusers' example",
        (*adamw("2e-3"), "--use_object_template", "--max_grad_norm=0"),
    ),
    Setting(
        "Directional, as published",
        ("--optimizer_type=Directional", "--learning_rate=0.04", *PUBLISHED),
    ),
    Setting(TOO_HIGH, adamw("0.5")),
)
ALONE, WHOLE = "nothing said", "nothing said, all 1600 steps"
ANY = "nothing said but --init_word shape, all 1600 steps"
NEWCOMER = (
    Setting(ALONE, newcomer=True),
    Setting(WHOLE, ("--max_train_steps=1600",), newcomer=True),
    Setting(ANY, ("--max_train_steps=1600", "--init_word=shape"), newcomer=True),
)
LATER = (200, 400, 800, 1600)  # steps of one image
QUICK = (ADAMW + "1e-2", DEFAULT)
FOUND, OBEYED, BOTH, LENGTH, PASSES = map(
    attrgetter, ("found", "obeyed", "both", "length", "passes")
)
# Where a word can learn, in a model with CLIP and T5. Rates for T5 are 53 times those for CLIP here, as
# its vectors are longer; the last row but one is without this factor, the last without growth
ENCODERS = (
    *(
        Setting(f"{name}, {where}", (*flags, f"--train_encoders={choice}"))
        for where, choice in (("CLIP", "clip"), ("T5", "t5"), ("both", "both"))
        for name, flags in (
            (DEFAULT, ()),
            *((ADAMW + rate, adamw(rate)) for rate in ("5e-3", "2e-2")),
        )
    ),
    Setting(
        "AdamW 5e-3, T5, one rate for all", (*adamw(f"{5e-3 / 53:.2g}"), "--train_encoders=t5")
    ),
    Setting(
        "AdamW 2e-2, T5, lengths kept",
        (*adamw("2e-2"), "--train_encoders=t5", "--norm_mode=target"),
    ),
)
Table = dict[str, dict[int, list[Result]]]
_Task = tuple[str, Path, Sequence[str], Sequence[int], int, Sequence[int]]


def by_concept(results: Sequence[Result], value: Callable[[Result], float]) -> dict[str, float]:
    """Mean over the seeds of each concept."""
    names = dict.fromkeys(result.concept for result in results)
    return {
        name: float(np.mean([value(r) for r in results if r.concept == name])) for name in names
    }


def shown(values: Sequence[float], digits: int = 1) -> str:
    """The mean, and its 95 % interval."""
    mean, low, high = (
        f"{value:+.{digits}f}" for value in (float(np.mean(values)), *interval(values))
    )
    return f"{mean} ({low} to {high})"


def difference(
    results: Sequence[Result], base: Sequence[Result], value: Callable[[Result], float]
) -> str:
    """Mean paired difference in points of a hundred, with its interval."""
    ours, theirs = by_concept(results, value), by_concept(base, value)
    return shown([100 * (ours[name] - theirs[name]) for name in ours])


def mean_of(results: Sequence[Result], value: Callable[[Result], float]) -> float:
    """Mean over concepts."""
    return float(np.mean(list(by_concept(results, value).values())))


def best_adamw(table: Table, step: int) -> str:
    """The AdamW rate with the highest (S + E) / 2 at a checkpoint; without any, the best of all."""
    known = [name for name in table if step in table[name]]
    names = [name for name in known if name.startswith(ADAMW)] or known
    return max(names, key=lambda name: mean_of(table[name][step], BOTH))


def rows_of(table: Table, step: int) -> list[str]:
    """The table at a checkpoint, in Markdown."""
    best = best_adamw(table, step)
    base = table[best][step]
    lines = [
        f"| setting | images | S | E | (S + E) / 2 | against {best} | length |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(
        (n for n in table if step in table[n]), key=lambda n: -mean_of(table[n][step], BOTH)
    ):
        results = table[name][step]
        s, e, both, length, passes = (
            mean_of(results, value) for value in (FOUND, OBEYED, BOTH, LENGTH, PASSES)
        )
        against = "" if results is base else difference(results, base, BOTH)
        lines.append(
            f"| {name} | {passes:.0f} | {100 * s:.1f} | {100 * e:.1f} "
            f"| {100 * both:.1f} | {against} | {length:.2f} |"
        )
    return lines


def can_judge(table: Table, untrained: Sequence[Result], step: int) -> list[str]:
    """What speaks against the lab as a judge; empty if it can tell good from bad."""
    wrong = []
    nothing, high = table.get(NOTHING, {}).get(step), table.get(TOO_HIGH, {}).get(step)
    if nothing and mean_of(nothing, FOUND) > mean_of(untrained, FOUND) + 0.02:
        wrong.append(f"{NOTHING} teaches something")
    if high:
        base = table[best_adamw(table, step)][step]
        lost = [
            by_concept(base, OBEYED)[name] - value
            for name, value in by_concept(high, OBEYED).items()
        ]
        if interval(lost)[0] <= 0:
            wrong.append(f"{TOO_HIGH} loses no E")
        if mean_of(high, LENGTH) < 5 * mean_of(untrained, LENGTH):
            wrong.append(f"{TOO_HIGH} makes no vector long")
    return wrong


def _measure(setting: Setting, task: _Task) -> list[tuple[int, list[Result]]]:
    """In a process of its own."""
    import torch

    torch.set_num_threads(1)
    family, folder, concepts, seeds, pictures, steps = task
    lab = Lab(family, folder / setting.name.replace(" ", "_").replace("'", ""), pictures)
    words = words_for(concepts, seeds)
    return (
        [(0, lab.untrained(words))]
        if setting.name == UNTRAINED
        else list(lab.measure(words, setting, steps))
    )


def measure_all(
    settings: Sequence[Setting], task: _Task, jobs: int, table: Table, keep: Callable[[Table], None]
) -> None:
    """Measure settings that the table lacks, several at once."""
    due = [setting for setting in settings if setting.name not in table]
    begun = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_measure, setting, task): setting.name for setting in due}
        for done, future in enumerate(as_completed(futures), 1):
            name = futures[future]
            table[name] = dict(future.result())
            keep(table)
            seconds = time.monotonic() - begun
            left = seconds / done * (len(due) - done)
            last = table[name][max(table[name])]
            found, obeyed = mean_of(last, FOUND), mean_of(last, OBEYED)
            print(
                f"{name}: S {found:.3f} E {obeyed:.3f}; {seconds / 60:.0f} min, {left / 60:.0f} to go",
                file=sys.stderr,
                flush=True,
            )


def report(table: Mapping[str, dict[int, list[Result]]], steps: Sequence[int]) -> list[str]:
    """The whole report, and what is wrong with the lab at its end."""
    rest = {name: by_step for name, by_step in table.items() if name != UNTRAINED}
    untrained = table[UNTRAINED][0]
    lines = []
    for step in steps:
        lines += [f"\nAfter {step} steps\n", *rows_of({**rest, UNTRAINED: {step: untrained}}, step)]
    print("\n".join(lines))
    return can_judge(rest, untrained, max(steps))


def main() -> int:
    """Print the tables; exit 1 if the lab cannot judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="five minutes: few concepts and settings"
    )
    parser.add_argument(
        "--newcomer", action="store_true", help="without captions, init word and all settings"
    )
    parser.add_argument("--encoders", action="store_true", help="words in CLIP, in T5, in both")
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--concepts", nargs="+", default=[concept.name for concept in REACHABLE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=16, help="of each word at each checkpoint")
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--only", nargs="+", help="names of settings")
    parser.add_argument(
        "--add",
        type=shlex.split,
        default=[],
        metavar="FLAGS",
        help="one more setting: --add='--seed=1 ...'",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--peer-script")
    parser.add_argument("--peer-args", default="")
    args = parser.parse_args()
    chosen = QUICK if args.quick else args.only
    settings = [Setting(UNTRAINED), *(s for s in SETTINGS if not chosen or s.name in chosen)]
    settings += [Setting(" ".join(args.add), tuple(args.add))] if args.add else []
    if args.encoders:
        settings = [
            Setting(UNTRAINED),
            *(one for one in ENCODERS if not chosen or one.name in chosen),
        ]
    if args.newcomer:
        settings, args.steps = [Setting(UNTRAINED), *NEWCOMER], list(LATER)
    if args.quick:
        args.concepts, args.seeds, args.steps = args.concepts[::3], args.seeds[:1], args.steps[:2]
    table: Table = (
        from_json(args.results.read_text(encoding="utf-8"))
        if args.results and args.results.exists()
        else {}
    )

    def keep(table: Table) -> None:
        if args.results:
            write_bytes(args.results, as_json(table).encode())

    with tempfile.TemporaryDirectory() as folder:
        task = (args.family, Path(folder), args.concepts, args.seeds, args.pictures, args.steps)
        measure_all(settings, task, args.jobs, table, keep)
        if args.peer_script:
            lab, words = (
                Lab(args.family, Path(folder) / "peer", args.pictures),
                words_for(args.concepts, args.seeds),
            )
            table["peer"] = {
                step: lab.peer(words, args.peer_script, args.peer_args, step) for step in args.steps
            }
            keep(table)
    wrong = report(table, args.steps)
    print("\nthe lab can judge" if not wrong else f"\nthe lab cannot judge: {'; '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
