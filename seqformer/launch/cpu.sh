#!/usr/bin/env bash
# The small model on your own data, on a CPU: two processes of one thread each.
set -euo pipefail
DATA=${DATA:-data}
OUTPUT=${OUTPUT:-runs/mini}
export OMP_NUM_THREADS=1

torchrun --standalone --nproc-per-node 2 \
    train.py mini \
    --data.train-images "$DATA/train" \
    --data.train-annotations "$DATA/train.json" \
    --data.batch-size 2 \
    --data.global-batch-size 4 \
    --data.num-workers 0 \
    --device cpu \
    --auto-resume \
    --output "$OUTPUT"
