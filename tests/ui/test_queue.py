import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from coinage.errors import CoinageError
from coinage.ui.job import Job, write_job
from coinage.ui.processes import own_process
from coinage.ui.queue import Entry, Queue, Waiting, is_night, next_to_start, time_of_day
from coinage.ui.workspace import WordFolder, Workspace

DAY, EVENING, NIGHT, EARLY = map(
    datetime.fromisoformat,
    ("2026-11-30T12:00", "2026-11-30T21:00", "2026-11-30T23:00", "2026-12-01T05:59"),
)
NOW, IN_TURN, TONIGHT = Entry(when="now"), Entry(), Entry(when="tonight")


def waiting(paused: bool = False, not_before: str | None = None, **entries: Entry) -> Waiting:
    return Waiting(order=tuple(entries), entries=entries, paused=paused, not_before=not_before)


@pytest.mark.parametrize(
    ("queue", "running", "now", "places", "ids"),
    [
        (waiting(), "", DAY, 1, ""),
        (waiting(a=IN_TURN, b=IN_TURN), "", DAY, 1, "a"),
        (waiting(a=IN_TURN, b=IN_TURN), "", DAY, 2, "ab"),
        (waiting(a=IN_TURN, b=IN_TURN), "c", DAY, 2, "a"),
        (waiting(a=IN_TURN), "c", DAY, 1, ""),
        (waiting(a=IN_TURN), "cd", DAY, 1, ""),
        (waiting(a=IN_TURN, b=IN_TURN), "a", DAY, 2, "b"),
        (waiting(a=IN_TURN, paused=True), "", DAY, 1, ""),
        (waiting(a=IN_TURN, b=NOW, paused=True), "", DAY, 2, "b"),
        (waiting(a=NOW), "c", DAY, 1, ""),
        (waiting(a=TONIGHT), "", DAY, 1, ""),
        (waiting(a=TONIGHT), "", EVENING, 1, ""),
        (waiting(a=TONIGHT), "", NIGHT, 1, "a"),
        (waiting(a=TONIGHT), "", EARLY, 1, "a"),
        (waiting(a=TONIGHT, paused=True), "", NIGHT, 1, ""),
        (waiting(a=TONIGHT, b=IN_TURN), "", DAY, 1, "b"),
        (waiting(a=IN_TURN, not_before="21:00"), "", DAY, 1, ""),
        (waiting(a=IN_TURN, not_before="21:00"), "", EVENING, 1, "a"),
        (waiting(a=TONIGHT, not_before="21:00"), "", EVENING, 1, "a"),
        (waiting(a=NOW, not_before="21:00"), "", DAY, 1, "a"),
    ],
)
def test_which_runs_are_next(
    queue: Waiting, running: str, now: datetime, places: int, ids: str
) -> None:
    jobs = {word_id: Job(state="running") for word_id in running} | {"z": Job(state="ended")}
    assert next_to_start(queue, jobs, now, places) == list(ids)


def test_a_night_may_begin_after_midnight() -> None:
    since = time_of_day("01:30")
    assert is_night(datetime.fromisoformat("2026-12-01T02:00"), since)
    assert not is_night(datetime.fromisoformat("2026-12-01T01:00"), since)
    assert not is_night(NIGHT, since)
    with pytest.raises(CoinageError, match="'soon' is not a time of day"):
        time_of_day("soon")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    for name in "abc":
        (workspace.words / name).mkdir(parents=True)
    workspace.own.mkdir()
    return workspace


def running(folder: WordFolder, device: str = "") -> None:
    own = own_process()
    job = Job(state="running", process=own.number, process_started=own.started, device=device)
    write_job(folder, job)


def put(queue: Queue, **entries: Entry) -> None:
    for word_id, entry in entries.items():
        queue.change(lambda w, i=word_id, e=entry: w.with_run(i, e))  # type: ignore[misc]


def test_the_queue_lies_on_the_disk_and_can_be_rearranged(workspace: Workspace) -> None:
    queue = Queue(workspace, lambda: DAY)
    put(queue, a=IN_TURN, b=Entry(resume=True, steps=50), c=NOW)
    again = Queue(workspace, lambda: DAY)
    assert again.read().order == ("c", "a", "b")
    assert again.read().entry("b") == Entry(resume=True, steps=50)
    again.change(lambda w: w.in_order(["b", "nobody", "a", "b"]))
    assert queue.read().order == ("b", "a", "c")
    queue.change(lambda w: w.without_run("a"))
    assert again.read().order == ("b", "c")
    assert not again.is_waiting("a")
    assert again.read().shown["when"] == {"b": "queue", "c": "now"}


def test_one_run_at_a_time_and_the_next_when_it_has_ended(workspace: Workspace) -> None:
    queue = Queue(workspace, lambda: DAY)
    put(queue, a=IN_TURN, b=IN_TURN)
    assert queue.due() == [("a", IN_TURN, "")]
    running(workspace.word("a"))
    queue.started("a")
    assert queue.due() == []
    assert queue.read().running == ("a",)
    write_job(workspace.word("a"), Job(state="ended"))
    assert queue.due() == [("b", IN_TURN, "")]
    assert queue.read().running == ()


def test_each_gpu_has_a_run_of_its_own(workspace: Workspace) -> None:
    queue = Queue(workspace, lambda: DAY, ["0", "1"])
    put(queue, a=IN_TURN, b=IN_TURN, c=IN_TURN)
    assert [(word_id, device) for word_id, _, device in queue.due()] == [("a", "0"), ("b", "1")]
    running(workspace.word("b"), "0")
    queue.started("b")
    assert [(word_id, device) for word_id, _, device in queue.due()] == [("a", "1")]


def test_a_word_that_was_deleted_leaves_the_queue(workspace: Workspace) -> None:
    queue = Queue(workspace, lambda: DAY)
    put(queue, a=IN_TURN, b=IN_TURN)
    workspace.word("a").path.rename(workspace.root / "gone")
    assert [word_id for word_id, _, _ in queue.due()] == ["b"]
    assert queue.read().order == ("b",)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"order": "a"}', '{"paused": 1}'])
def test_a_damaged_queue_is_empty(workspace: Workspace, text: str) -> None:
    (workspace.own / "queue.json").write_text(text)
    assert Queue(workspace).read() == Waiting()


def test_a_second_server_starts_nothing_until_the_first_is_gone(workspace: Workspace) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from coinage.ui.queue import Queue\nfrom coinage.ui.workspace import Workspace\n"
        "queue = Queue(Workspace(Path(sys.argv[1])))\n"
        "queue.change(lambda w: w)\n"
        "print(len(queue.due()), flush=True)\ninput()\n"
    )
    queue = Queue(workspace, lambda: DAY)
    put(queue, a=IN_TURN)
    command = [sys.executable, "-c", code, str(workspace.root)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "1\n"
        assert queue.due() == []
        put(queue, b=NOW)  # each may change the queue
        first.communicate("\n")
    assert [word_id for word_id, _, _ in queue.due()] == ["b"]
    queue.close()


def test_times_are_those_of_the_entry_that_came_last() -> None:
    queue = waiting(a=IN_TURN).with_run("a", TONIGHT)
    assert queue.order == ("a",)
    assert queue.entry("a") == TONIGHT
    assert replace(queue, paused=True).entry("b") == Entry()
