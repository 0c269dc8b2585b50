"""What it costs a run to be watched: `python benchmarks/ui_watchers.py`.

The run of the demo world is started by the page's server, in turns with nobody and with many pages that
show it, each a stream of events. What is compared is the processor time of the training process per
step, which other work on the machine changes little; medians over the rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coinage.ui.app import HERE

ADDRESS = re.compile(r"http://\S+token=\S+")
EXAMPLE = sorted((HERE / "static" / "example").glob("*.png"))
FIRST, STEPS = 20, 300  # steps that are left out, since they load and warm up; and of the whole run
FLAGS = {
    "--resolution": "64",
    "--init_word": "shape",
    "--learning_rate": "0.005",
    "--train_batch_size": "4",
    "--max_train_steps": str(STEPS),
    "--sample_every_n_steps": "100000",
    "--seed": "0",
}
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Page:
    """A browser that was let in."""

    host: str
    cookie: str

    @classmethod
    def opened(cls, address: str) -> Page:
        parts = urlsplit(address)
        link = http.client.HTTPConnection(parts.netloc)
        link.request("GET", f"/?{parts.query}")
        answer = link.getresponse()
        return cls(parts.netloc, str(answer.getheader("set-cookie")).partition(";")[0])

    def send(self, method: str, path: str, body: bytes, kind: str) -> Any:
        link = http.client.HTTPConnection(self.host, timeout=120)
        origin = f"http://{self.host}"
        headers = {"Cookie": self.cookie, "Origin": origin, "Content-Type": kind}
        link.request(method, f"/api{path}", body or None, headers)
        answer = link.getresponse()
        told = json.loads(answer.read())
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {told}")
        return told

    def ask(self, method: str, path: str, value: Any = None) -> Any:
        body = b"" if value is None else json.dumps(value).encode()
        return self.send(method, path, body, "application/json")

    def watch(self, word: str) -> None:
        """Read the events of a word until the server closes them."""
        link = http.client.HTTPConnection(self.host, timeout=600)
        link.request("GET", f"/api/words/{word}/events", headers={"Cookie": self.cookie})
        answer = link.getresponse()
        try:
            while answer.readline():
                pass
        except OSError:
            return


def used(process: int) -> float:
    """Return the seconds of processor time that a process has used."""
    stat = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(stat[11]) + int(stat[12])) / TICK


def measured(page: Page, word: str, watchers: int) -> tuple[float, float]:
    """Train a word; return processor seconds and seconds by the clock of a step."""
    page.ask("POST", f"/words/{word}/start", {"when": "now"})
    for _ in range(watchers):
        threading.Thread(target=page.watch, args=(word,), daemon=True).start()
    marks: list[tuple[int, float, float]] = []
    while True:
        shown = page.ask("GET", f"/words/{word}")
        job, step = shown["job"], shown["progress"].get("step") or 0
        if job["state"] in ("ended", "failed", "killed"):
            break
        if job["process"] and FIRST <= step < STEPS:
            marks.append((step, used(job["process"]), time.monotonic()))
        time.sleep(0.5)
    if job["state"] != "ended":
        raise SystemExit(f"the run has {job['state']}: {job['reason']}")
    (step, cpu, clock), (last, end, late) = marks[0], marks[-1]
    return (end - cpu) / (last - step), (late - clock) / (last - step)


def main() -> None:
    """Serve an empty folder, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--watchers", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "coinage.cli.main",
            "ui",
            folder,
            "--no-browser",
            "--port=0",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                compare(str(server.stdout.readline()) if server.stdout else "", asked)
            finally:
                server.terminate()


def compare(line: str, asked: argparse.Namespace) -> None:
    """Measure in turns, and print the medians."""
    found = ADDRESS.search(line)
    if found is None:
        raise SystemExit("the server has not started")
    page = Page.opened(found[0])
    found_at: dict[int, list[tuple[float, float]]] = {0: [], asked.watchers: []}
    for number in range(asked.rounds):
        for watchers, results in found_at.items():
            word = page.ask("POST", "/words", {"token": f"zibu{number}w{watchers}"})["id"]
            page.ask("PATCH", f"/words/{word}", {"model": "demo-sd1", "flags": FLAGS})
            for path in EXAMPLE:
                kind = "application/octet-stream"
                address = f"/words/{word}/images?name={path.name}"
                page.send("PUT", address, path.read_bytes(), kind)
            results.append(measured(page, word, watchers))
    for watchers, results in found_at.items():
        cpu, clock = (statistics.median(values) * 1000 for values in zip(*results, strict=True))
        print(
            f"{watchers:3} watchers: {cpu:.1f} ms of processor time a step, {clock:.1f} ms by the clock"
        )


if __name__ == "__main__":
    main()
