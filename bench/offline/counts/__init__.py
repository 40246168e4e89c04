"""What launches ask of a GPU, counted by running compiled code on the emulator; no times.

`gpus.py` has the assumed rates, `attention.py` and `masks.py` our launches, `peers.py` those of
other projects, `memory.py` predictions that a GPU's counters can be held against.
"""
