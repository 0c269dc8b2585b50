"""The process that does the page's tasks: `python -m coinage.ui.task_process`.

It reads one JSON object a line, `{"kind", "payload"}`, and answers with lines of `{"progress"}` and a last
one of `{"result"}` or `{"problems"}`. It ends with its input, at once, whatever it is doing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import IO, Any

from coinage.errors import CoinageError, Problem, described
from coinage.system.full_memory import full_memory, is_full

log = logging.getLogger("coinage")
Tell = Callable[[Mapping[str, Any]], None]
Task = Callable[[Mapping[str, Any], Tell], Any]
# Each kind's module, whose function of the kind's name does the work
KINDS = {
    "check": "coinage.ui.checking",
    "inspect": "coinage.ui.file_tasks",
    "verify": "coinage.ui.file_tasks",
    "convert": "coinage.ui.file_tasks",
    "rescale": "coinage.ui.file_tasks",
    "mix": "coinage.ui.file_tasks",
    "draw": "coinage.ui.draw_task",
    "describe": "coinage.ui.caption_task",
}


def main() -> None:
    """Do tasks until there are no more."""
    answers = _own_output()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for line in _lines_until_end():
        _answer(answers, _done(line, lambda progress: _answer(answers, {"progress": progress})))


def _own_output() -> IO[bytes]:
    """Return the standard output for answers alone; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _lines_until_end() -> Iterator[bytes]:
    """Yield the lines of the input; at its end the process ends, also in the middle of a task."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)  # nobody waits for an answer

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _answer(answers: IO[bytes], message: Mapping[str, Any]) -> None:
    try:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()
    except BrokenPipeError:
        os._exit(0)


def _done(line: bytes, tell: Tell) -> dict[str, Any]:
    """Do a task, and return the answer; whatever goes wrong is a problem in it."""
    try:
        asked = json.loads(line)
        task: Task = getattr(import_module(KINDS[asked["kind"]]), asked["kind"])
        return {"result": task(asked["payload"], tell)}
    except CoinageError as error:
        return _problems(*error.problems)
    except Exception as error:
        if is_full(error):
            return _problems(full_memory(error))
        log.exception("the task failed")
        hint = "this is a fault of Coinage; .coinage/tasks.log has the details"
        return _problems(Problem(f"the task failed: {described(error)}", hint=hint))


def _problems(*problems: Problem) -> dict[str, Any]:
    told = [{"what": each.what, "where": each.where, "hint": each.hint} for each in problems]
    return {"problems": told}


if __name__ == "__main__":
    main()
