"""The checks of `coinage train --dry_run` as values for the page; a task, which imports torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from coinage.checks import make_plans
from coinage.checks.dataset import DatasetReport, summarize_dataset
from coinage.checks.footprint import in_gb
from coinage.checks.forecast import forecast
from coinage.checks.plan import Plan
from coinage.config import TrainConfig
from coinage.data.sample import Sample
from coinage.errors import ConfigError, Findings, Problem
from coinage.report.contact_sheet import marks_of
from coinage.settings.discover import discover
from coinage.terminal.progress import clock
from coinage.training.outline import files_of, head_of, latents_of, trials_of
from coinage.wording import counted

SETTINGS = "the run's settings"


def check(payload: Mapping[str, Any], _: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Return all that is wrong with a run, what is to be known of it, and what is special of each image.

    Args:
        payload: `toml`, the settings of the run; `folder`, the word's; and `speed`, the `seconds` of a
            step and the `word` of the run in which they were measured, or None.
    """
    with tempfile.TemporaryDirectory(prefix="coinage-") as folder:
        path = Path(folder) / "run.toml"
        path.write_text(payload["toml"], encoding="utf-8")
        try:
            found = _checked(TrainConfig.from_toml(path), payload["speed"])
        except ConfigError as error:
            found = {**_nothing(), "problems": _told(error.problems)}
        for problem in (*found["problems"], *found["warnings"]):
            problem["where"] = problem["where"].replace(str(path), SETTINGS)
    return found


def _nothing() -> dict[str, Any]:
    return {"problems": [], "warnings": [], "notes": [], "facts": [], "images": {}}


def _told(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"what": p.what, "where": p.where, "hint": p.hint} for p in dict.fromkeys(problems)]


def _checked(config: TrainConfig, speed: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what `make_plans` and `forecast` find, in the order in which a dry run prints it."""
    try:
        plans = make_plans([config])
    except ConfigError as error:
        return {
            **_nothing(),
            "problems": _told(error.problems),
            "images": _images_without_plan(config),
        }
    with ExitStack() as stack:
        for plan in plans:
            stack.callback(plan.release)
        foreseen = forecast(plans)
        (plan,) = plans
        report = summarize_dataset(plan.config)
        return {
            "problems": [],
            "warnings": _told([*plan.warnings, *foreseen.warnings]),
            "notes": list(dict.fromkeys([*plan.notes, *foreseen.notes])),
            "facts": [*_facts(plans), ("time", time_of(plan, speed))],
            "images": _images(report, [*plan.warnings, *report.findings.warnings]),
        }


def _images_without_plan(config: TrainConfig) -> dict[str, Any]:
    """Return what is special of the images of a run that cannot begin, as far as it can be known."""
    findings = Findings()
    try:
        report = summarize_dataset(discover(config, findings), findings)
    except ConfigError:
        return {}
    return _images(report, [*report.findings.errors, *report.findings.warnings])


def _facts(plans: Sequence[Plan]) -> list[tuple[str, str]]:
    import torch

    needs = plans[0].memory
    memory = f"the CPU is used; on a GPU it would take about {in_gb(needs.total)}"
    if torch.cuda.is_available():
        memory = needs.shown()
    facts = [*head_of(plans), ("memory", memory), ("disk", files_of(plans))]
    more = [("", latents_of(plans)), *(("", trials_of(plan)) for plan in plans)]
    return facts + [(label, text) for label, text in more if text]


def time_of(plan: Plan, speed: Mapping[str, Any] | None) -> str:
    """Return how long a run will take, as far as an earlier one tells."""
    if speed is None:
        return "not known before its first steps: no run of this model and size was timed here yet"
    most = "at most " if plan.config.loop.early_stop else ""
    seconds = clock(plan.steps * speed["seconds"])
    return f"{most}{seconds}, if it is as fast as the last run like it ({speed['word']}); previews beside"


def _images(report: DatasetReport, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return of each image, by its id, what is special of it, its bucket, and its cut.

    The cut is left, top, width and height in pixels of the image as it is shown.
    """
    images: dict[str, Any] = {}
    special = {
        "tiny": set(report.summary.tiny),
        "more than a quarter is cut off": set(report.summary.much_cut),
    }
    for sample, shown in zip(report.examined.samples, report.samples, strict=True):
        findings = marks_of(sample)
        findings += [text for text, paths in special.items() if shown.path in paths]
        if shown.longer_than_limit and shown.longest_caption_tokens is not None:
            findings.append(f"{counted(shown.longest_caption_tokens, 'token')}: the caption is cut")
        image = {
            "findings": findings,
            "bucket": list(sample.fit.bucket_wh),
            "crop": crop_of(sample),
        }
        images[sample.path.stem] = image
    for problem in problems:
        for image_id in _named(problem):
            image = images.setdefault(image_id, {"findings": [], "bucket": None, "crop": None})
            image["findings"].append(problem.what)
    return images


def _named(problem: Problem) -> list[str]:
    """Return the ids of the images that a problem names."""
    names = problem.where.replace(";", "\n").replace(",", "\n").splitlines()
    return [path.stem for path in map(Path, map(str.strip, names)) if path.suffix]


def crop_of(sample: Sample) -> tuple[float, float, float, float]:
    """Return what is left of an image: left, top, width, height, in pixels of the image as shown."""
    fit, (width, height) = sample.fit, sample.image_wh
    across, down = width / fit.resized_wh[0], height / fit.resized_wh[1]
    (x, y), (bucket_width, bucket_height) = fit.crop_xy, fit.bucket_wh
    cut = (x * across, y * down, bucket_width * across, bucket_height * down)
    left, top, wide, high = (round(value, 1) for value in cut)
    return left, top, wide, high
