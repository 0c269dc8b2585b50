"""A dataset's summary as data, from a run's configuration."""

from pathlib import Path

from coinage.checks.dataset import summarize_dataset
from tests.helpers import config_for


def test_the_summary_of_a_run_needs_no_command(moon_dataset: Path, tmp_path: Path) -> None:
    report = summarize_dataset(config_for(moon_dataset, tmp_path, "--max_train_epochs=2"))
    summary = report.summary
    assert not report.findings.errors
    assert (summary.images, len(report.samples)) == (8, 8)
    assert summary.captions is not None
    assert (summary.captions.always_hold_the_word, summary.captions.never) == (8, 0)
    assert summary.word is not None
    assert summary.word.token == "zibu"
    assert (report.steps, report.epochs) == (2 * summary.batches_per_epoch, 2)
    assert report.as_json()["datasets"][0]["buckets"]
