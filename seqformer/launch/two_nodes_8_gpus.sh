#!/usr/bin/env bash
# Swin-L on two machines with 8 GPUs each: 16 clips per step, one on each GPU. Parameters are
# sharded inside a machine and repeated on the other, so only gradients cross the network.
# Start it on both, with the address of one of them:   HEAD=node1 bash two_nodes_8_gpus.sh
# Both must see the same --output folder.
set -euo pipefail
DATA=${DATA:-data}
OUTPUT=${OUTPUT:-runs/swin_l}

torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id seqformer \
    train.py swin_l \
    --data.train-images "$DATA/ytvis2019/train/JPEGImages" \
    --data.train-annotations "$DATA/ytvis2019/annotations/instances_train_sub.json" \
    --data.coco-images "$DATA/coco/train2017" \
    --data.coco-annotations "$DATA/coco/annotations/coco_keepfor_ytvis2019.json" \
    --weights "$DATA/swin_l_coco.pth" \
    --parallel hsdp \
    --precision bf16 \
    --recompute backbone \
    --auto-resume \
    --output "$OUTPUT"
