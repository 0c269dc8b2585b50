"""What is wrong with a run, found before the model is loaded."""
