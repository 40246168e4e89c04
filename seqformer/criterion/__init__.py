"""Matching and losses; used in training only."""

from .criterion import SetCriterion, training_losses
from .matcher import HungarianMatcher, Matches

__all__ = ["HungarianMatcher", "Matches", "SetCriterion", "training_losses"]
