"""Searches before the first step: for the init word, and for settings."""
