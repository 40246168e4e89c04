#!/usr/bin/env bash
# The published recipe on one GPU with 24 GB: still 16 clips per step, one at a time. Backbone and
# encoder keep only their blocks' inputs. On a V100 say --precision fp16.
set -euo pipefail
DATA=${DATA:-data}
OUTPUT=${OUTPUT:-runs/r50}

python train.py r50 \
    --data.train-images "$DATA/ytvis2019/train/JPEGImages" \
    --data.train-annotations "$DATA/ytvis2019/annotations/instances_train_sub.json" \
    --data.coco-images "$DATA/coco/train2017" \
    --data.coco-annotations "$DATA/coco/annotations/coco_keepfor_ytvis2019.json" \
    --weights "$DATA/r50_coco.pth" \
    --data.batch-size 1 \
    --precision bf16 \
    --recompute backbone encoder \
    --auto-resume \
    --output "$OUTPUT"
