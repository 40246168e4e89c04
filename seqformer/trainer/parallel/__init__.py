"""The model on several processes: replicated or sharded."""

from .replica import Replica, build_replica

__all__ = ["Replica", "build_replica"]
