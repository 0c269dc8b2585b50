"""Train a Textual Inversion embedding for Stable Diffusion XL; flags as in kohya-ss/sd-scripts."""

import sys

from coinage.cli.train import train_command

if __name__ == "__main__":
    sys.exit(train_command("sdxl", prog="sdxl_train_textual_inversion.py"))
