#!/usr/bin/env bash
# The published recipe on one machine with 8 GPUs: 16 clips per step, two on each.
# A lost process restarts all of them from the newest checkpoint, up to three times.
# On fewer GPUs change --nproc-per-node alone; gradients are then accumulated.
set -euo pipefail
DATA=${DATA:-data}
OUTPUT=${OUTPUT:-runs/r50}

torchrun --standalone --nproc-per-node 8 --max-restarts 3 \
    train.py r50 \
    --data.train-images "$DATA/ytvis2019/train/JPEGImages" \
    --data.train-annotations "$DATA/ytvis2019/annotations/instances_train_sub.json" \
    --data.coco-images "$DATA/coco/train2017" \
    --data.coco-annotations "$DATA/coco/annotations/coco_keepfor_ytvis2019.json" \
    --weights "$DATA/r50_coco.pth" \
    --data.batch-size 2 \
    --precision bf16 \
    --auto-resume \
    --output "$OUTPUT"
