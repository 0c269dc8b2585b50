"""Train a word for Stable Diffusion 1.x and 2.x, where the repository with its scripts is not at hand.

`python -m coinage.train_textual_inversion` and `accelerate launch -m coinage.train_textual_inversion`
take the flags of the script of this name.
"""

import sys

from coinage.cli.train import train_command


def main() -> int:
    """Train with the flags of the command line; returns the exit code."""
    return train_command("sd")


if __name__ == "__main__":
    sys.exit(main())
