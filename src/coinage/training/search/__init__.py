"""What is tried before the first step."""
