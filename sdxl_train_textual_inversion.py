"""Train a Textual Inversion embedding for Stable Diffusion XL; flags as in kohya-ss/sd-scripts."""

import sys

from coinage.sdxl_train_textual_inversion import main

if __name__ == "__main__":
    sys.exit(main())
