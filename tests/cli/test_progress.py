"""The progress of a run, on terminals of all widths, with few letters or colours, and elsewhere."""

import io
import logging
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from coinage.cli import progress as progress_line
from coinage.cli.console import set_up_log
from coinage.cli.progress import Pace, Progress, TrainingClock, progress_observers
from coinage.cli.train import train_command
from coinage.optim.row_lengths import movement
from coinage.terminal.messages import wrapped
from coinage.terminal.progress import Cell, Shown, clock, counted, line
from coinage.training.observers.notify import notify
from tests.helpers import flags, prepared, trained
from tests.terminals import terminal

log = logging.getLogger("coinage")


class Clock:
    """A clock that the test winds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def lapsed(now: Clock, pace: Pace, step: float, aside: float = 0.0) -> None:
    """A step of four images, and what is done beside it."""
    now.seconds += step
    pace.step_ended(4)
    now.seconds += aside
    pace.aside_ended()


def test_the_speed_is_of_training_and_the_time_left_of_everything() -> None:
    now = Clock()
    pace = Pace(now)
    assert (pace.images_per_second, pace.left(10)) == (None, None)
    lapsed(now, pace, 90)  # it compiles
    assert pace.left(10) is None, "one slow step tells nothing"
    for i in range(9):
        lapsed(now, pace, 0.5, aside=20 if i == 4 else 0)  # a preview
    assert pace.images_per_second == pytest.approx(8)
    assert pace.left(10) == pytest.approx(10 * (0.5 + 20 / 10))


def test_the_speed_is_that_of_the_last_minute() -> None:
    now = Clock()
    pace = Pace(now)
    for seconds in [1.0] * 300 + [0.1] * 700:
        lapsed(now, pace, seconds)
    assert pace.images_per_second == pytest.approx(40)
    for _ in range(4):
        lapsed(now, pace, 200)
    assert pace.images_per_second == pytest.approx(0.02), "steps longer than a minute count too"


def test_the_pause_between_epochs_is_not_training() -> None:
    now = Clock()
    pace = Pace(now)
    training_clock, progress = TrainingClock(pace), Progress(pace, now)
    for _ in range(3):
        lapsed(now, pace, 1)
    training_clock.epoch_ended(None)  # type: ignore[arg-type] - it looks at the clock only
    now.seconds += 30
    progress.epoch_ended(None)  # type: ignore[arg-type]
    lapsed(now, pace, 1)
    assert pace.images_per_second == pytest.approx(4)
    assert pace.left(4) == pytest.approx(4 * (1 + 30 / 4))


def test_clocks() -> None:
    assert [clock(s) for s in (0, 59.6, 3599, 3723, -5)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:02:03",
        "0:00",
    ]


CELLS = (
    Cell("7/9", importance=3),
    Cell("0.1234", before="loss ", importance=2),
    Cell("1.0", after=" GB", importance=1),
)


@pytest.mark.parametrize("plain", [True, False])
def test_what_matters_least_goes_first_and_no_line_is_too_long(plain: bool) -> None:
    widths = [len(cell.text) for cell in CELLS]
    found = {
        width: line(Shown(0.5, CELLS), widths, width, plain=plain).plain for width in range(120)
    }
    assert all(len(text) <= width for width, text in found.items())
    assert found[60].endswith("  7/9  loss 0.1234  1.0 GB")
    assert found[31].endswith("  7/9  loss 0.1234")
    assert found[20].endswith("  7/9")
    assert found[60].isascii() == plain


def test_a_run_on_a_terminal(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 1 --d 1\nzibu --w 64 --h 64 --s 1 --d 1 --l x\n")
    with terminal(monkeypatch) as screen:
        code = train_command(
            "sd",
            flags(
                moon_dataset,
                tmp_path / "o",
                f"--sample_prompts={prompts}",
                "--sample_at_first",
                "--xformers",
                "--log_config",
            ),
        )
    assert code == 0
    assert all(len(text) < 80 for text in screen.drawn if "left" in text or "img/s" in text)
    text = "\n".join(screen.lines)
    assert re.search(
        r"\nword    zibu, 1 vector from shape\ndata    64x64, .*\nrun     3 steps, 1 epoch,.*\noutput ",
        text,
    )
    (final,) = [shown for shown in screen.lines if "━" in shown]
    assert re.fullmatch(
        r"━+  3/3  epoch 1/1  loss \d\.\d{4}  turned +\d+° +[\d.]+ img/s +in 0:0\d", final
    )
    assert text.startswith(
        "warning: a prompt's option is not used: --l x\nnote: --xformers is not needed"
    )
    assert "\n\nword " in text, "what is odd stands apart"
    place = screen.lines.index(final)
    assert screen.lines[place - 1] == ""
    assert screen.lines[place + 1 : place + 3] == [
        "",
        f"saved {tmp_path / 'o' / 'zibu.safetensors'}",
    ]
    assert "\x1b[?25h" in screen.text[screen.text.rindex("\x1b[?25l") :], "the cursor is back"


@pytest.mark.parametrize(
    ("columns", "encoding", "no_color"),
    [
        (40, "utf-8", ""),
        (80, "ascii", ""),
        (80, "cp1252", ""),
        (80, "utf-8", "1"),
        (160, "ascii", "1"),
    ],
)
def test_terminals_of_all_kinds(
    columns: int,
    encoding: str,
    no_color: str,
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch, columns, encoding) as screen:
        monkeypatch.setenv("NO_COLOR", no_color)
        set_up_log()  # sees it
        trained(
            moon_dataset,
            tmp_path,
            "--validation_split=0.25",
            "--validate_every_n_steps=1",
            "--cache_latents",
            observers=progress_observers(),
        )
        log.warning("%s is odd\nhint: rename it", "ein Bild über 日本.png")
    assert all(
        len(text) < columns for text in screen.drawn if "loss " in text and "held-out" not in text
    )
    (final,) = [shown for shown in screen.lines if " 3/3" in shown]
    assert final.isascii() == (encoding != "utf-8")
    assert re.search(r"loss \d\.\d", final)
    assert ("length" in final) == (columns > 80)
    told = [shown for shown in screen.lines if "held-out" in shown]
    assert [shown[:7] for shown in told] == ["step 0:", "step 1:", "step 2:", "step 3:"], (
        "all above the line"
    )
    assert bool(re.search(r"\x1b\[[\d;]*3[0-7]", screen.text)) == (not no_color), "a colour"


def test_a_terminal_that_cannot_go_back_gets_plain_lines(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch, term="dumb") as screen:
        trained(moon_dataset, tmp_path, observers=progress_observers())
    assert "\x1b" not in screen.text
    steps = [text.split("  ")[0] for text in screen.drawn if text.startswith("step")]
    assert steps == ["step 1/3", "step 3/3"]


def test_other_words_on_stderr_stand_above_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen, counted("encoding images", 3) as on_image:
        for number in range(3):
            on_image(number + 1)
            sys.stderr.write("a library's word\n")
    assert screen.lines == ["a library's word"] * 3, "and nothing is left of the line"
    assert any("encoding images 3/3" in text for text in screen.drawn)


def test_a_terminal_that_goes_away_costs_no_word(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.raiseExceptions", False)
    with terminal(monkeypatch) as screen:
        screen.closed.set()
        assert train_command("sd", flags(moon_dataset, tmp_path)) == 0
    assert (tmp_path / "zibu.safetensors").is_file()


def test_lines_grow_rare_and_the_last_step_is_always_told(
    moon_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = prepared(moon_dataset, tmp_path, "--max_train_steps=2001")
    now = Clock()
    monkeypatch.setattr("time.time", iter(range(10**6, 0, -1)).__next__)  # set back all the time
    observers = progress_observers(now)
    run.last.norms, run.last.angles = movement(run.parts.rows(), run.start)
    with caplog.at_level(logging.INFO, logger="coinage"):
        notify(observers, "started", run)
        for run.progress.step in range(1, 2002):
            run.last.loss, run.progress.images = 0.25, run.step * 4
            now.seconds += 1.0
            notify(observers, "stepped", run)
        notify(observers, "close", run)
    told = [text.split() for text in caplog.messages if text.startswith("step")]
    steps = [int(words[1].split("/")[0]) for words in told]
    assert steps[:4] == [1, 6, 11, 16]
    assert steps[-1] == 2001
    apart = [b - a for a, b in pairwise(steps[:-1])]
    assert max(apart) == 60
    assert apart == sorted(apart)
    assert len(steps) < 70
    assert all("loss 0.2500" in " ".join(words) for words in told), (
        "the average of equal losses, from the first one on"
    )
    assert caplog.messages[1].split()[-2:] == ["33:15", "left"]
    assert caplog.messages[1].endswith("4.0 img/s  33:15 left")
    assert caplog.messages[-1].endswith("in 33:21")


def test_a_run_that_is_asked_to_stop_tells_where(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="coinage"):
        trained(
            moon_dataset,
            tmp_path,
            change=lambda run: run.request_stop(2),
            observers=progress_observers(),
        )
    assert any(text.startswith("step 1/3") and " in 0:0" in text for text in caplog.messages)


def test_the_memory_of_a_gpu_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: 3 * 2**29)
    run = SimpleNamespace(parts=SimpleNamespace(device=SimpleNamespace(type="cuda")))
    assert [cell.text for cell in progress_line._memory(run)] == ["1.5 GB"]  # type: ignore[arg-type]


def test_quiet_tells_what_went_wrong_and_where_the_file_is(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch) as screen:
        given = flags(
            moon_dataset,
            tmp_path,
            "--quiet",
            "--xformers",
            "--cache_latents",
            "--learning_rate=1e-6",
        )
        assert train_command("sd", given) == 0
    shown = [text for text in screen.lines if text]
    assert shown[0].startswith("warning: --learning_rate 1e-06")
    assert shown[-1].startswith("hint: ")
    assert len(shown) <= 3
    assert "\x1b[2K" not in screen.text, "nothing is live"


def test_quiet_and_verbose_in_a_pipe(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*more: str) -> tuple[int, str, str]:
        code = train_command(
            "sd",
            flags(
                moon_dataset, tmp_path / "o", "--max_train_steps=2", "--learning_rate=0.1", *more
            ),
        )
        return code, *capsys.readouterr()

    path = tmp_path / "o" / "zibu.safetensors"
    assert told("--quiet") == (0, f"{path}\n", "")
    code, out, error = told("--quiet", "--console_log_level=INFO")
    assert (code, out) == (0, f"{path}\n")
    assert "saved" in error
    code, _, plain = told("--save_every_n_steps=1", "--save_state", "--cache_latents")
    assert code == 0
    code, out, error = told(
        "--save_every_n_steps=1", "--save_state", "--cache_latents", "--verbose"
    )
    assert (code, out) == (0, "")
    for text in (
        "latents are in memory",
        "-step00000001.safetensors",
        "saved the state",
        "torch ",
        "AdamW",
    ):
        assert text in error
        assert text not in plain or text in ("torch ", "AdamW")
    assert "\x1b" not in plain + error
    code, _, error = told("--quiet", "--verbose")
    assert code == 2
    assert "error: --quiet and --verbose exclude each other" in error


def test_verbose_tells_where_an_error_was_found(
    moon_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = flags(moon_dataset, tmp_path, "--token_string=wobo")
    assert train_command("sd", given) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert train_command("sd", [*given, "--verbose"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert "\nerror: no caption contains the word wobo" in error
    assert train_command("sd", [*given, "--console_log_level=DEBUG"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_pipe_that_takes_ascii_gets_ascii(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(pipe, encoding="ascii", write_through=True))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert train_command("sd", flags(moon_dataset, tmp_path / "\u00f6", "--max_train_steps=1")) == 0
    told = pipe.getvalue()
    assert told.isascii()
    assert b"\x1b" not in told
    assert re.search(rb"step 1/1  epoch 1/1  loss \d\.\d", told)
    assert b"saved " in told


def test_messages_break_between_words_and_paths_never() -> None:
    assert (
        wrapped("run     eight words of a run", 16, 8)
        == "run     eight\n        words of\n        a run"
    )
    assert wrapped("saved /a/path", 12, 2) == "saved /a/path", "no word is left alone"
    assert wrapped("saved /a/path/that/is/long", 12, 2) == "saved /a/path/that/is/long"
    assert wrapped("a b ccc d", 6, 2) == "a b\n  ccc\n  d"
    for text in ("", "word", "a  b", "  --> there is no such place", "x" * 50):
        assert wrapped(text, 80, 2) == text
