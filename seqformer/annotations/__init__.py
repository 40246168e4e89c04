"""What annotation and results files may say: one set of rules for training, scoring and tools.

Imports neither torch nor the settings.
"""
