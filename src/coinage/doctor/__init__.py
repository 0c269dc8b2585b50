"""What is wrong with a machine: Python, packages, graphics card, memory, folders, and a step of training."""
