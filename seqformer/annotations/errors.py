"""What is wrong with a file, in words."""

from __future__ import annotations


class InvalidMaskError(ValueError):
    """A mask that cannot be read: `position` in the batch, and in words what is wrong with it."""

    def __init__(self, problem: str, position: int = 0) -> None:
        super().__init__(problem)
        self.position = position
