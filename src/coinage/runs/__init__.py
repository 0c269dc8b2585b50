"""The files of a run in its output folder, recognised by their names."""
