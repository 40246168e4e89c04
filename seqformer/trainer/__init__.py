"""The training loop and what surrounds it; only train.py imports it."""
