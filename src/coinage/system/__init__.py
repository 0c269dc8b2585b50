"""Files, processes and memory, as the operating system gives them."""
