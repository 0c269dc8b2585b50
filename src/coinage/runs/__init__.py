"""The files of a run in its output folder, told by their names."""
