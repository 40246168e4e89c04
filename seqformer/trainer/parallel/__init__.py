"""The model on several processes: replicated or sharded."""

from .parallel_model import ParallelModel, build_parallel_model

__all__ = ["ParallelModel", "build_parallel_model"]
