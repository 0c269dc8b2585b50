"""Images and captions: files to samples, samples to batches."""
