"""Our `kernels` package, under the one name that nobody else has: `seqformer.kernels`.

In an installed wheel it lies inside `seqformer`, in a checkout beside it (`_checkout.py`). An
unrelated registry package called `kernels` is neither used nor shadowed.
"""

from __future__ import annotations

import importlib

kernels = importlib.import_module("seqformer.kernels")
