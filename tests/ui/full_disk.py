"""A run on a disk of 64 kB of its own, which is full; prints what is known of it afterwards as JSON.

Started by test_job.py in a mount namespace: `full_disk.py DISK`.
"""

import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from coinage.ui.job import Job, read_job, write_job
from coinage.ui.job_process import run_job
from coinage.ui.workspace import WordFolder

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)  # noqa: S607
folder = WordFolder(disk / "zibu")
folder.path.mkdir()
write_job(folder, Job(state="starting", started=time.time()))
during = []


def train(*_: object) -> int:
    during.append(read_job(folder).state)
    return 1


with (disk / "filler").open("ab", buffering=0) as file, suppress(OSError):
    while True:
        file.write(b"x" * 4096)
code = run_job(folder, (), train)
after = read_job(folder)
told = {"code": code, "during": during, "state": after.state, "reason": after.reason}
print(json.dumps(told), file=sys.stderr)  # noqa: T201
