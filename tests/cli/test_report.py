"""`coinage report`, as a user runs it."""

import json
from pathlib import Path

import pytest

from coinage.cli.main import main
from coinage.report.page import render_report
from coinage.report.record import Record
from tests.report import samples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in (samples.finished(), samples.failed()):
        (tmp_path / f"{run.name}-report.html").write_text(render_report(run), encoding="utf-8")
    (tmp_path / "dataset.html").write_text("<p>no report</p>")
    return tmp_path


def test_a_line_for_each_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    head, broken, good = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "run",
        "status",
        "steps",
        "loss",
        "turned",
        "length",
        "fixed",
        "loss",
        "works",
        "in",
        "warnings",
    ]
    assert broken.split()[:5] == ["zibu-hot", "failed", "41", "of", "1000"]
    assert good.split()[:3] == ["zibu-moon", "finished", "300"]
    assert "40.4 deg" in good
    assert "4 of 6" in good


def test_a_page_of_all_of_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "new" / "compared.html"
    assert (
        main(["report", str(folder / "zibu-moon-report.html"), str(folder), "--html", str(page)])
        == 0
    )
    assert f"wrote {page}" in capsys.readouterr().err
    assert "2 runs compared" in page.read_text(encoding="utf-8")


def test_json_is_the_records_without_pictures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder), "--json"]) == 0
    text = capsys.readouterr().out
    assert "data:image" not in text
    broken, good = json.loads(text)
    assert broken["report"] == str(folder / "zibu-hot-report.html")
    assert (broken["status"], good["status"], good["step"]) == ("failed", "finished", 300)
    assert good["curves"]["loss"]


def test_all_problems_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    words = [
        str(folder / name)
        for name in ("dataset.html", "missing.html", "empty", "zibu-hot-report.html")
    ]
    assert main(["report", *words, "--html", words[3]]) == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 4
    for line in (
        "not a report of a run",
        "file not found",
        "no reports in the folder or below",
        "this is one of the reports",
    ):
        assert line in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["a" * 300], "cannot read the file: File name too long"),
        (["b/" * 3000], "cannot read the file: File name too long"),
        (["--html", "/"], "this is a folder, not a file"),
        (["--html", "."], "this is a folder, not a file"),
        (["--html="], "this is a folder, not a file"),
        (["--html", "a" * 300], "cannot write the file: File name too long"),
    ],
)
def test_names_that_no_file_can_have(
    more: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder), *more]) in (1, 2)
    error = capsys.readouterr().err
    assert told in error
    assert error.count("error: ") == 1


def test_runs_in_folders_below_are_named_by_what_tells_them_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("lr1/s1", "lr1/s2", "lr2/s1"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "zibu-report.html").write_text(
            render_report(Record(name="zibu")), encoding="utf-8"
        )
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--html", str(page)]) == 0
    names = [f"zibu ({place})" for place in ("lr1/s1", "lr1/s2", "lr2/s1")]
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == names
    assert all(name in page.read_text(encoding="utf-8") for name in names)
    assert main(["report", str(tmp_path / "lr1")]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "zibu (s1)",
        "zibu (s2)",
    ]


def test_nothing_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "see coinage report --help" in capsys.readouterr().err
