"""Scores of learned words: how much pictures look like the images, and obey their prompts."""
