"""Several processes as one trainer: the only package that knows torch.distributed."""

from seqformer.distributed import LostProcessError, communication_errors

from .meeting import Rendezvous, local_rendezvous
from .parallel_model import ParallelModel, build_parallel_model
from .session import Parallel, parallel_session, rank_from_environment

__all__ = [
    "LostProcessError",
    "Parallel",
    "ParallelModel",
    "Rendezvous",
    "build_parallel_model",
    "communication_errors",
    "local_rendezvous",
    "parallel_session",
    "rank_from_environment",
]
