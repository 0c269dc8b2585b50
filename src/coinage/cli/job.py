"""`python -m coinage.cli.job FOLDER`: train a word of the page in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from coinage.cli.train import train_command
from coinage.ui.job_process import folder_of, run_job

if TYPE_CHECKING:
    from coinage.training.session import Followers


def main(words: Sequence[str]) -> int:
    """Train the word of a folder; returns the exit code.

    Args:
        words: the folder, and words for the command line of the training.
    """
    folder, more = folder_of(words)
    return run_job(folder, more, _train)


def _train(words: Sequence[str], followers: Callable[[], Followers]) -> int:
    return train_command("coinage", words, "coinage train", followers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
