"""A run as one page to look at, and several runs side by side."""
