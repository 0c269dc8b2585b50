"""What can be done with a run, and when: start, stop, go on, cancel, previews and saves. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coinage.errors import ConfigError
from coinage.ui.form import read_form, write_run
from coinage.ui.job import PREVIEW, SAVE, STOP, Job, ask, is_asked, read_job, write_job
from coinage.ui.processes import ask_to_stop, kill
from coinage.ui.queue import Entry, Waiting, When, time_of_day
from coinage.ui.site import Site
from coinage.ui.web import RefusedError
from coinage.ui.workspace import WordFolder

POSSIBLE = {
    "draft": "it was never started: start it",
    "queued": "it waits in the queue: cancel it, or start it now",
    "starting": "it is just being started: stop it, or wait for its first step",
    "running": "it runs: ask for previews or a save, or stop it",
    "stopping": "it is stopping: wait, or stop it again to end it at once",
    "ended": "it has ended: start it again, or go on with more steps",
    "stopped": "it was stopped: go on, or start it again",
    "failed": "it has failed: go on from the last state, or start it again",
    "killed": "it was killed: go on from the last state, or start it again",
}
MAY_START = ("draft", "queued", "ended", "stopped", "failed", "killed")
MAY_GO_ON = ("ended", "stopped", "failed", "killed")
MAY_STOP = ("starting", "running", "stopping")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed in the queue; what is None stays, and "" takes a time of day away."""

    order: list[str] | None = None
    paused: bool | None = None
    not_before: str | None = None


def current_job(site: Site, folder: WordFolder) -> Job:
    """Return the job of a word; one is queued only as long as the queue has it."""
    job = read_job(folder)
    if job.state == "queued" and not site.queue.is_waiting(folder.id):
        return job.not_queued()
    return job


def refuse_unless(job: Job, states: Sequence[str], what: str) -> None:
    """Refuse what the state of a run does not allow, and say what it does.

    Raises:
        RefusedError: 409.
    """
    if job.state not in states:
        raise RefusedError(409, f"the run cannot {what} now: {POSSIBLE[job.state]}")


def start_word(site: Site, folder: WordFolder, when: When) -> Job:
    """Put the run of a word into the queue: at its front if it is to start now.

    Raises:
        RefusedError: it runs already.
        CoinageError: its form is wrong: all that is.
    """
    with site.lock:
        job = current_job(site, folder)
        refuse_unless(job, MAY_START, "be started")
        problems = write_run(folder, read_form(folder), site.models)
        if problems:
            raise ConfigError(problems)
        return _queue(site, folder, job, Entry(when=when))


def continue_word(site: Site, folder: WordFolder, steps: int | None) -> Job:
    """Put the run of a word into the queue, to go on from its last state.

    Raises:
        RefusedError: it runs, or there is no state to go on from.
    """
    with site.lock:
        job = current_job(site, folder)
        refuse_unless(job, MAY_GO_ON, "go on")
        if not any(folder.output.glob("*-state")):
            what = "the run cannot go on: it has saved no state yet; start it again"
            raise RefusedError(409, what)
        if job.state == "ended" and steps is None:
            what = "the run has ended: say with how many steps in all it is to go on"
            raise RefusedError(409, what)
        return _queue(site, folder, job, Entry(when="now", resume=True, steps=steps))


def _queue(site: Site, folder: WordFolder, job: Job, entry: Entry) -> Job:
    site.queue.change(lambda waiting: waiting.with_run(folder.id, entry))
    queued = job.queued()
    write_job(folder, queued)
    return queued


def cancel_word(site: Site, folder: WordFolder) -> Job:
    """Take the run of a word out of the queue.

    Raises:
        RefusedError: it does not wait there.
    """
    with site.lock:
        job = current_job(site, folder)
        refuse_unless(job, ["queued"], "be cancelled")
        site.queue.change(lambda waiting: waiting.without_run(folder.id))
        job = job.not_queued()
        write_job(folder, job)
        return job


def stop_word(site: Site, folder: WordFolder) -> Job:
    """Ask a run to stop with all saved; asked again, end it at once. A queued one is cancelled.

    Raises:
        RefusedError: it does not run.
    """
    job = current_job(site, folder)
    if job.state == "queued":
        return cancel_word(site, folder)
    refuse_unless(job, MAY_STOP, "be stopped")
    process = job.known_process
    if process is None:
        raise RefusedError(409, "the run is just being started; try again in a second")
    if is_asked(folder, STOP):
        kill(process)
    else:
        ask(folder, STOP)
        ask_to_stop(process)
    return replace(job, state="stopping")


def ask_word(site: Site, folder: WordFolder, what: str) -> Job:
    """Ask a run for previews or for a save after its next step.

    Raises:
        RefusedError: it does not run.
    """
    job = current_job(site, folder)
    names = {PREVIEW: "draw previews", SAVE: "save"}
    refuse_unless(job, ["running"], names[what])
    ask(folder, what)
    return job


def changed_by(waiting: Waiting, asked: Change) -> Waiting:
    """Return the queue as it is asked to be.

    Raises:
        CoinageError: the time of day is none.
    """
    if asked.order is not None:
        waiting = waiting.in_order(asked.order)
    if asked.paused is not None:
        waiting = replace(waiting, paused=asked.paused)
    if asked.not_before:
        time_of_day(asked.not_before)
        waiting = replace(waiting, not_before=asked.not_before)
    elif asked.not_before == "":
        waiting = replace(waiting, not_before=None)
    return waiting
