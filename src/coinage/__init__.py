"""Coinage: teach Stable Diffusion a new word."""

__version__ = "0.1.0"
