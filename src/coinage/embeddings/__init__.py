"""Embedding files: what is in them, who can read them, how to change them."""
