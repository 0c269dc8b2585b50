"""Command lines: flags in, exit code out."""
