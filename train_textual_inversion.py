"""Train a Textual Inversion embedding for Stable Diffusion 1.x and 2.x; flags as in kohya-ss/sd-scripts."""

import sys

from coinage.train_textual_inversion import main

if __name__ == "__main__":
    sys.exit(main())
