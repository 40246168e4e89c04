"""Clips for training: annotation files, sampling, augmentation, loading, and a drawn demo set."""
