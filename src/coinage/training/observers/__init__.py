"""The observers of a run: files, previews, trackers, checks and the report."""
