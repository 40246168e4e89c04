"""`python -m tests.fake_cuda CASES`: cases as JSON, [["train", {...}], ...]; a JSON answer.

The answer lists for every case what is wrong (null: nothing), and the operators that were seen.
"""

from __future__ import annotations

import json
import os
import sys

from tests.fake_cuda import load


def main() -> None:
    load.load()
    import torch

    torch.set_num_threads(1)
    from tests.fake_cuda import cases, planted, standins
    from tests.fake_cuda.watch import Watch

    watch = Watch(standins.DEVICE)
    standins.install(watch)
    answers, operators = [], set()
    for name, options in json.loads(sys.argv[1]):
        fault = options.pop("planted", None)
        with planted.fault(fault):
            answers.append(cases.run(watch, getattr(cases, name), options))
        operators |= watch.operators
        watch.operators = set()
    seen = sorted((name, str(dtype)) for name, dtype in operators)
    print(json.dumps({"answers": answers, "operators": seen}), flush=True)
    os._exit(0)  # interpreter teardown would look for a CUDA that is not there


if __name__ == "__main__":
    main()
