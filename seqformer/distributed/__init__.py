"""A run of several processes: what started it, who is there, how they meet, and how losing one is
told. Training and evaluation use the same; nothing else knows process groups.

`environment` and `presence` import no torch, so that a command uses them before anything else.
"""
