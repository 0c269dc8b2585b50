"""The training run: set-up, one step, the loop, and its observers."""
