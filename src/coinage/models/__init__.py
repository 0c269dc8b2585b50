"""The models that a word is trained for: what they are, their files, and how they are loaded."""
