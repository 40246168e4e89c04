"""Several processes as one trainer: the only package that knows torch.distributed."""

from seqformer.distributed import LostProcessError, communication_errors

from .meeting import Rendezvous, local_rendezvous
from .replica import Replica, build_replica
from .session import Parallel, parallel_session, rank_from_environment

__all__ = [
    "LostProcessError",
    "Parallel",
    "Rendezvous",
    "Replica",
    "build_replica",
    "communication_errors",
    "local_rendezvous",
    "parallel_session",
    "rank_from_environment",
]
