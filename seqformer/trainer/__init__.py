"""The training loop and what surrounds it; only `seqformer.cli` imports it."""
