"""The built-in demo: a small world, a model that knows it, and concepts it has no word for."""
