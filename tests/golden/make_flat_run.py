"""Writes `flat_run.tar.xz`: the folder of a tiny run from when a config was one flat table.

Run by the code of then (commit 77ff18f), in the root of the repository; today's code writes another
`config.json`. Weights start at zero, so that most of the file is zeros and packs well.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, safe_open, save_file

from seqformer.trainer import trainer
from tests.trainer.tiny import build_tiny_loader, tiny_config, tiny_model_config

TARGET = Path(__file__).with_name("flat_run.tar.xz")


def main() -> None:
    """Two steps with a checkpoint, then two more whose losses are kept in `losses.json`."""
    trainer.build_train_loader = build_tiny_loader
    trainer.plot_losses = lambda log_path, png_path: None
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model = replace(tiny_model_config(), num_decoder_layers=1, num_queries=3, mask_dim=8)
        first = tiny_config(Path("first"), max_steps=1, model=model)
        trainer.train(first)
        state = load_file("first/model.safetensors")
        with safe_open("first/model.safetensors", "pt") as file:
            metadata = file.metadata()
        zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        save_file(zeros, "zeros.safetensors", metadata)
        run = replace(
            first,
            output=Path("run"),
            max_steps=2,
            weights=Path("zeros.safetensors"),
            drop_class_heads=False,
            parallel="fsdp",
            tf32=False,
            recompute=("encoder",),
            keep_checkpoints=2,
        )
        trainer.train(run)
        with tarfile.open(TARGET, "w:xz", preset=9) as archive:
            archive.add("run")
            trainer.train(replace(run, max_steps=4, resume=True))
            lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
            losses = [line["loss"] for line in lines if "loss" in line]
            Path("losses.json").write_text(json.dumps(losses))
            archive.add("losses.json")


if __name__ == "__main__":
    main()
