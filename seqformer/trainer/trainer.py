"""The training loop: step, log, save, validate.

The loss is normalised by the number of instances averaged over the processes, which stays on the
device; nothing in a step waits for the device except the matcher's one copy of its costs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqformer.config import TrainConfig, config_to_dict
from seqformer.criterion import SetCriterion
from seqformer.data.loader import build_train_loader
from seqformer.inference.results import write_json
from seqformer.model import (
    build_model_from_config,
    load_backbone_weights,
    load_checkpoint,
    load_weights,
    to_published,
)
from seqformer.structures import ClassMap, ClipBatch
from seqformer.trainer.checkpoint import (
    CHECKPOINT_NAME,
    check_resumable,
    check_same_run,
    prepare_output,
    restore_rng_state,
    rng_state,
    save_checkpoint,
)
from seqformer.trainer.optim import build_optimizer, build_schedule
from seqformer.trainer.parallel import Parallel, parallel_session
from seqformer.trainer.progress import (
    LOG_NAME,
    Clock,
    LossWindow,
    NonFiniteLossError,
    RunLog,
    memory_gb,
    plot_losses,
)
from seqformer.trainer.step import is_finite, training_step
from seqformer.trainer.validate import ValidationSet

logger = logging.getLogger(__name__)


def train(config: TrainConfig, **session: Any) -> dict[str, Any]:
    """One whole run in this process (and its peers under torchrun).

    Args:
        config: the run.
        session: rank, world_size and rendezvous of `parallel_session`; default torchrun's.

    Returns: the metrics of the last validation; empty without a validation set.
    Raises: SetupError when the run cannot begin; NonFiniteLossError when the loss breaks down;
        DataError when a clip cannot be read.
    """
    with ExitStack() as stack:
        with setup_errors():
            prepare_output(config)
            parallel = stack.enter_context(parallel_session(config.device, **session))
            trainer = Trainer(config, parallel)
        return trainer.fit()


class SetupError(Exception):
    """A run cannot begin; the message says why and what to do about it."""


class DataError(Exception):
    """A clip could not be read in the middle of a run; the message names the file."""


@contextmanager
def setup_errors() -> Iterator[None]:
    """Inside, a ValueError or OSError is the user's to mend: it becomes a SetupError.

    In the training loop the same types would be bugs or broken files, and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error


class Trainer:
    """A run: everything built from one config, ready to `fit`.

    Attributes:
        step: optimiser steps done.
        steps_per_epoch: batches of this process in one pass over the data.
        total_steps: where the run ends.
        classes: what the classifier's outputs stand for, from the data.
    """

    def __init__(self, config: TrainConfig, parallel: Parallel) -> None:
        self.parallel = parallel
        self.device = parallel.device
        self.checkpoint_path = config.output / CHECKPOINT_NAME
        saved = load_checkpoint(self.checkpoint_path) if config.resume else None
        if saved is not None:
            check_resumable(saved.extra, saved.path)
            check_same_run(config, saved.extra, saved.path)

        self.loader, self.classes = build_train_loader(
            config.data, seed=config.seed, rank=parallel.rank, world_size=parallel.world_size
        )
        self.validation_set = ValidationSet.from_config(config.data)
        if self.loader.batch_sampler.micro_batches > 1:
            raise ValueError("gradients are not accumulated yet; leave --data.global-batch-size 0")
        self.steps_per_epoch = self.loader.batch_sampler.steps_per_epoch
        self.total_steps = config.max_steps or config.epochs * self.steps_per_epoch
        self.config = replace(
            config, model=replace(config.model, num_classes=self.classes.num_classes)
        )

        _seed(config.seed)  # the same weights on every process
        self.model = build_model_from_config(self.config.model)
        if config.weights is not None and saved is None:
            load_weights(self.model, config.weights, drop_class_heads=config.drop_class_heads)
        elif config.backbone_weights is not None and saved is None:
            load_backbone_weights(self.model, config.backbone_weights)
        self.model.to(self.device)
        self.criterion = SetCriterion.from_config(config.loss)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.schedule = build_schedule(
            self.optimizer, config.optim, self.steps_per_epoch, self.total_steps
        )
        _seed(config.seed + parallel.rank)  # but other dropout masks

        self.step = 0
        self.window = LossWindow(parallel)
        self.clock = Clock()
        self._last_saved: int | None = None
        self._rng_of_last_run: dict[str, Any] | None = None
        if saved is not None:
            load_weights(self.model, saved)
            self._restore(saved.extra)
        self.wrapped = parallel.wrap(self.model)

    def fit(self) -> dict[str, Any]:
        """Train to the end of the run, then validate. Returns: the metrics; empty without any."""
        if self.parallel.is_main:
            write_json(self.config.output / "config.json", config_to_dict(self.config))
        self.parallel.barrier()
        self._announce()
        self.log = RunLog(self.config.output, self.total_steps, self.step, self.parallel.is_main)
        self.clock.start(self.step)
        metrics: dict[str, Any] = {}
        try:
            while self.step < self.total_steps:
                self._train_epoch(*divmod(self.step, self.steps_per_epoch))
                if self.step < self.total_steps and self._is_validation_due():
                    self._validate()
            metrics = self._validate()
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"{error}. {self._advice()}") from None
        except DataError as error:
            raise DataError(f"{error}. {self._keep_progress()}") from error.__cause__
        finally:
            self.log.close()
        if self.parallel.is_main:
            plot_losses(self.config.output / LOG_NAME, self.config.output / "loss.png")
            logger.info("finished after %d steps; results are in %s", self.step, self.config.output)
        return metrics

    def _train_epoch(self, epoch: int, start_batch: int) -> None:
        """The rest of one epoch, or of the run."""
        self.model.train()
        for batch in self._batches(epoch, start_batch):
            losses = self._train_on(batch)
            self.step += 1
            self.schedule.step()
            self.window.add(self.step, batch.ids, losses)
            self.log.advance()
            at_end = self.step == self.total_steps
            is_logging = self.step % self.config.log_every == 0
            is_saving = at_end or 0 in (
                self.step % self.config.checkpoint_every,
                self.step % self.steps_per_epoch,
            )
            if is_logging or is_saving:
                self.window.fetch()
            if is_logging:
                self._log_losses()
            if is_saving:
                self.save()
            if at_end:
                if not is_logging:  # after saving: a longer run would average these steps later
                    self._log_losses()
                return

    def _batches(self, epoch: int, start_batch: int) -> Iterator[ClipBatch]:
        """The batches of one epoch from `start_batch` on; counts the time spent waiting for them.

        Starting the loader draws from the random generators. A state saved inside an epoch was
        taken after that, one saved between epochs before it, and is restored accordingly.
        """
        self.loader.batch_sampler.set_epoch(epoch, start_batch)
        if start_batch == 0:
            self._restore_rng()
        batches = iter(self.loader)
        self._restore_rng()
        while True:
            with self.clock.waiting():
                try:
                    batch = next(batches, None)
                except (ValueError, OSError) as error:
                    # From a worker the sentence is the last line of a quoted traceback.
                    last_line = str(error).strip().splitlines()[-1]
                    name = f"{type(error).__name__}: "
                    raise DataError(
                        f"step {self.step + 1}: {last_line.removeprefix(name)}"
                    ) from error
            if batch is None:
                return
            yield batch

    def _train_on(self, batch: ClipBatch) -> dict[str, Tensor]:
        count = sum(len(target["labels"]) for target in batch.targets)
        num_instances = torch.full((), float(count), device=self.device)
        num_instances = self.parallel.mean(num_instances).clamp(min=1)
        # For the log: what this step uses, before the schedule moves on.
        self._learning_rates = {g["name"]: g["lr"] for g in self.optimizer.param_groups}
        try:
            return training_step(
                self.wrapped,
                self.criterion,
                self.optimizer,
                batch.to(self.device),
                num_instances,
                self.config.optim.clip_max_norm,
            )
        except NonFiniteLossError as error:
            self.window.check_own()  # an earlier step, not looked at yet, may be the cause
            clips = "; ".join(batch.ids)
            raise NonFiniteLossError(f"step {self.step + 1}: {error} (clips: {clips})") from error

    def save(self) -> None:
        """Write the checkpoint; its `epoch` counts the finished ones. All processes take part.

        Losses and gradients of every step so far must have been fetched, that is, be sound.

        Raises: NonFiniteLossError when the last update broke the weights; the file stays as it is.
        """
        if not is_finite(*self.model.parameters()):
            raise NonFiniteLossError(f"step {self.step}: the update made weights infinite or NaN")
        generators = self.parallel.gather(rng_state())
        if self.parallel.is_main:
            state = {
                "model": to_published(self.model),
                "optimizer": self.optimizer.state_dict(),
                "lr_scheduler": self.schedule.state_dict(),
                "epoch": self.step // self.steps_per_epoch,
                "step": self.step,
                "steps_per_epoch": self.steps_per_epoch,
                "seconds": self.clock.seconds(),
                "log_window": self.window.fetched,
                "args": config_to_dict(self.config),
                "classes": self.classes.to_dict(),
                "model_config": config_to_dict(self.config.model),
                "rng": generators,
            }
            save_checkpoint(self.checkpoint_path, state)
        self._last_saved = self.step

    def _restore(self, saved: dict[str, Any]) -> None:
        """Everything but the weights of a checkpoint."""
        if ClassMap.from_dict(saved["classes"]) != self.classes:
            raise ValueError(
                f"{self.checkpoint_path} was trained on other classes than the annotation file "
                "has; to fine-tune, use --weights and another --output"
            )
        processes, steps = len(saved["rng"]), saved["steps_per_epoch"]
        if (processes, steps) != (self.parallel.world_size, self.steps_per_epoch):
            raise ValueError(
                f"{self.checkpoint_path} was written by {processes} process(es) with {steps} steps "
                f"per epoch; this run has {self.parallel.world_size} with {self.steps_per_epoch}. "
                "Resume with the same data and number of processes"
            )
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["lr_scheduler"])
        self.step = self._last_saved = saved["step"]
        self.clock.seconds_before = saved["seconds"]
        self.window.fetched = list(saved["log_window"])
        self._rng_of_last_run = saved["rng"][self.parallel.rank]

    def _restore_rng(self) -> None:
        if self._rng_of_last_run is not None:
            restore_rng_state(self._rng_of_last_run)
            self._rng_of_last_run = None

    def _log_losses(self) -> None:
        """Mean losses since the last line, with learning rates and speed, to log and terminal."""
        clips_per_step = self.config.data.batch_size * self.parallel.world_size
        self.log.training_line(
            {
                "step": self.step,
                "epoch": (self.step - 1) // self.steps_per_epoch,
                **self.window.take_mean(),
                "lr": self._learning_rates["main"],
                "lr_backbone": self._learning_rates["backbone"],
                "lr_linear_proj": self._learning_rates["linear_proj"],
                **self.clock.lap(self.step, self.total_steps, clips_per_step),
                "memory_gb": memory_gb(self.device),
            }
        )

    def _is_validation_due(self) -> bool:
        every = self.config.eval_every_epochs
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        return every > 0 and rest == 0 and epoch % every == 0

    def _validate(self) -> dict[str, Any]:
        """Score the validation set, where there is one; rank 0 writes metrics.json."""
        if self.validation_set is None:
            return {}
        with self.clock.paused():
            metrics = self.validation_set.score(
                self.model, self.classes, self.config.eval, self.parallel, self.config.output
            )
        if not metrics:
            return {}
        metrics |= {
            "step": self.step,
            "seed": self.config.seed,
            "train_seconds": round(self.clock.seconds(), 1),
            "processes": self.parallel.world_size,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "config": config_to_dict(self.config),
        }
        write_json(self.config.output / "metrics.json", metrics)
        scores = {name: metrics[name] for name in ("AP", "AP50", "AP75")}
        self.log.line({"step": self.step, "validation": scores})
        return metrics

    def _announce(self) -> None:
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        logger.info(
            "%s, %d classes, %.2f M trained parameters; %d process(es) on %s, %d thread(s), fp32",
            self.config.model.backbone,
            self.classes.num_classes,
            trained / 1e6,
            self.parallel.world_size,
            self.device,
            torch.get_num_threads(),
        )
        logger.info(
            "%s at step %d of %d (%d per epoch); output: %s",
            "continuing" if self.step else "starting",
            self.step,
            self.total_steps,
            self.steps_per_epoch,
            self.config.output,
        )

    def _keep_progress(self) -> str:
        """Save what has been learned, where this process can do so alone; what to do next."""
        if self.parallel.world_size == 1 and self.step != self._last_saved:
            self.window.fetch()
            self.save()
        if self._last_saved is None:
            return "No checkpoint had been written yet"
        return (
            f"{self.checkpoint_path} holds step {self._last_saved}; mend the file, or take its "
            "video out of the annotations, and continue with --resume"
        )

    def _advice(self) -> str:
        if self._last_saved is None:
            return "No checkpoint had been written; try a smaller --optim.lr or more warm-up steps"
        return (
            f"{self.checkpoint_path} still holds the sound weights of step {self._last_saved}; "
            "start from them with --weights, --no-drop-class-heads, a smaller --optim.lr and "
            "another --output"
        )


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
