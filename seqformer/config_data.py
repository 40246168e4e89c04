"""The settings of data, by the name that their module had before `config` was a folder."""

from .config.data import AugmentConfig, DataConfig

__all__ = ["AugmentConfig", "DataConfig"]
