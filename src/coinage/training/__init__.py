"""The training run: set-up, one step, the loop, and what watches it."""
