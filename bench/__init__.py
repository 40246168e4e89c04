"""Benchmarks. Each module is a command of its own: `python -m bench.<name> --help`."""
