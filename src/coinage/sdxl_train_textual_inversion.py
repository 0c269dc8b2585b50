"""Train a word for Stable Diffusion XL, where the repository with its scripts is not at hand.

`python -m coinage.sdxl_train_textual_inversion` and `accelerate launch -m` with the same name take the
flags of the script of this name.
"""

import sys

from coinage.cli.train import train_command


def main() -> int:
    """Train with the flags of the command line; returns the exit code."""
    return train_command("sdxl", prog="sdxl_train_textual_inversion.py")


if __name__ == "__main__":
    sys.exit(main())
