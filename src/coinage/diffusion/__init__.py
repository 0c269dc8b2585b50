"""Diffusion as pure tensor functions: schedule, noise, loss."""
