"""The flags, and the files that name them, as values and as a configuration. No torch."""
