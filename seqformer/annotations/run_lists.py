"""Ground truth as plain run lengths, compressed before the JSON is parsed.

Published annotation files write every mask as a list of integers: nine million of them for 300
videos. As Python objects they take longer to make than the whole evaluation, and 300 MB. NumPy
reads such a list from the text directly, and its compressed form, which means the same, takes its
place. A list that is not simply integers is left for the JSON parser to judge.
"""

from __future__ import annotations

import re
import warnings

import numpy as np

from seqformer.annotations.errors import InvalidMaskError
from seqformer.annotations.run_lengths import compress_runs

_LIST_OF_RUNS = re.compile(r'"counts":\s*\[')


def compress_run_lists(text: str) -> str:
    """The same annotations, with "counts" as text where `text`, a JSON file, has lists of integers.

    The pattern cannot occur inside a JSON string, where its second quote would be escaped.
    """
    pieces: list[str] = []
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how NumPy objects to "1,,2"
        for opening in _LIST_OF_RUNS.finditer(text):
            closing = text.find("]", opening.end())
            if closing >= 0 and (counts := _compressed(text[opening.end() : closing])):
                pieces += text[done : opening.end() - 1], '"', counts.replace("\\", "\\\\"), '"'
                done = closing + 1
    return "".join([*pieces, text[done:]])


def _compressed(listed: str) -> str | None:
    try:
        runs = np.fromstring(listed, np.int64, sep=",")
        return compress_runs(runs) if runs.size == listed.count(",") + 1 else None
    except (ValueError, DeprecationWarning, InvalidMaskError):
        return None
