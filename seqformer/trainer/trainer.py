"""The training loop: step, log, save, validate.

Nothing in a step waits for the device except the matcher's one copy of its costs. All randomness
of a step comes from generators seeded by (seed, step, rank), and its clips from (seed, epoch,
step), so a checkpoint needs neither, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from seqformer.backend_choice import check_backend, chosen_backend
from seqformer.config import TrainConfig, config_to_dict
from seqformer.data.clip_loader import DeadWorkerError
from seqformer.data.loader import build_train_loader
from seqformer.determinism import deterministic_algorithms
from seqformer.devices import keep_freed_memory
from seqformer.distributed.context import DistributedContext, distributed_context
from seqformer.distributed.environment import launch
from seqformer.distributed.errors import LostProcessError, communication_errors
from seqformer.files import write_json
from seqformer.structures import ClipBatch
from seqformer.trainer.advice import with_advice
from seqformer.trainer.announcement import announce
from seqformer.trainer.build import build_training, seed_all
from seqformer.trainer.checkpoint import (
    Checkpoints,
    model_tensors,
    optimizer_tensors,
)
from seqformer.trainer.checkpoint_folders import read_run
from seqformer.trainer.clock import Clock
from seqformer.trainer.errors import (
    DataError,
    StoppedError,
    setup_errors,
)
from seqformer.trainer.export import export_weights
from seqformer.trainer.loggers import build_loggers
from seqformer.trainer.loss_plot import plot_losses
from seqformer.trainer.loss_window import LossWindow
from seqformer.trainer.memory_report import memory_report
from seqformer.trainer.nonfinite_steps import NonFiniteLossError, NonFiniteSteps
from seqformer.trainer.optim import apply_schedule
from seqformer.trainer.profile import StepProfiler
from seqformer.trainer.resume import agree_on_checkpoint, check_same_data, load_newest
from seqformer.trainer.run_folder import check_same_run, own_output, prepare_output
from seqformer.trainer.run_log import (
    LOG_NAME,
    RunLog,
    memory_gb,
)
from seqformer.trainer.signals import StopRequest
from seqformer.trainer.step import is_finite
from seqformer.trainer.validate import SCORES, Validator

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "model.safetensors"
KEPT_MIB = 1024
"""Of memory that a step on a CPU frees, for the next one."""
AVERAGE = "ema"
"""Where checkpoints keep the average of the weights; its readers know it by this name."""


def train(config: TrainConfig, **session: Any) -> dict[str, Any]:
    """One whole run in this process (and its peers under torchrun).

    Args:
        config: the run.
        session: of `distributed_context`: rank, world_size, rendezvous, watch; default the
            launcher's.

    Returns: the metrics of the last validation; empty without a validation set, when the run was
        asked to stop, and after a memory report or a profile.
    Raises: SetupError when the run cannot begin, or another one is in its folder;
        NonFiniteLossError when the loss breaks down; DataError when a clip cannot be read;
        MemoryShortageError when a step does not fit; CheckpointError or WriteError when the disk is
        full or gone; LostProcessError when another process ended or hangs.
    """
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        with setup_errors(), communication_errors():
            if config.logging.memory_report:
                logger.info("%s", memory_report(config))
                return {}
            rank = session.get("rank")
            is_main = (launch().rank if rank is None else rank) == 0
            stack.enter_context(own_output(config, is_main))
            checkpoint = prepare_output(config)
            stack.enter_context(deterministic_algorithms(config.compute.deterministic))
            stack.enter_context(chosen_backend(config.compute.backend))
            session.setdefault("timeout_minutes", config.distributed.timeout_minutes)
            parallel = stack.enter_context(distributed_context(config.device, **session))
            check_backend(parallel.device)
            if parallel.device.type == "cpu":
                keep_freed_memory(KEPT_MIB)
            trainer = Trainer(config, parallel, checkpoint, stop)
        return trainer.fit()


class Trainer:
    """A run: everything built from one config, ready to `fit`.

    Attributes:
        step: optimiser steps done.
        steps_per_epoch: steps in one pass over the data.
        total_steps: where the run ends.
        classes: what the classifier's outputs stand for, from the data.
    """

    def __init__(
        self,
        config: TrainConfig,
        parallel: DistributedContext,
        checkpoint: Path | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        """
        Args:
            config: the run.
            parallel: the processes.
            checkpoint: whether there is one to go on from: the newest sound one is taken.
            stop: asks the run to end early.

        Raises: ValueError or OSError saying what to change.
        """
        self.parallel, self.device = parallel, parallel.device
        self._stop = stop or StopRequest()
        checkpoint = agree_on_checkpoint(config.output, parallel, checkpoint is not None)
        saved = None if checkpoint is None else read_run(checkpoint)
        if saved is not None and checkpoint is not None:
            check_same_run(config, saved, checkpoint)
            config = _with_global_batch(config, saved["global_batch_size"])

        self.loader, self.classes = build_train_loader(
            config.data, seed=config.seed, rank=parallel.rank, world_size=parallel.world_size
        )
        # Pinning needs a CUDA context, which a process that computes on the CPU has no use for.
        self.loader.pin_memory = self.device.type == "cuda"
        sampler = self.loader.batch_sampler
        self.global_batch_size = sampler.global_batch_size
        self.micro_batches = sampler.micro_batches
        self.steps_per_epoch = sampler.steps_per_epoch
        self.total_steps = config.max_steps or config.epochs * self.steps_per_epoch
        self.config = replace(
            config, model=replace(config.model, num_classes=self.classes.num_classes)
        )

        self.loggers = build_loggers(self.config, parallel.is_main)
        self.validator = Validator(config, self.classes, parallel, self.loggers)
        training = build_training(self.config, parallel, is_new=saved is None)
        self.model, self.parallel_model = training.model, training.parallel_model
        self.optimizer, self.precision = training.optimizer, training.precision
        self.training_step, self.average = training.step, training.average
        self.step = 0
        self.window = LossWindow(parallel)
        self.clock = Clock()
        self.nonfinite_steps = NonFiniteSteps(
            config.output,
            config.max_skipped_steps,
            is_main=parallel.is_main,
            scales_loss=self.precision.scaler.is_enabled(),
        )
        self.checkpoints = Checkpoints(config.output, parallel, config.checkpoint.keep_checkpoints)
        self.checkpoints.protected = self.validator.best.step
        self.profiler = StepProfiler(
            config.output, self.device, enabled=config.logging.profile, rank=parallel.rank
        )
        self._was_restored = checkpoint is not None
        if saved is not None and checkpoint is not None:
            self._restore(checkpoint, saved)

    def fit(self) -> dict[str, Any]:
        """Train to the end of the run, then validate. Returns: the metrics; empty without any, and
        when the run was asked to stop."""
        try:
            with with_advice(self.checkpoints, lambda: self.step, self.device):
                return self._fit()
        except StoppedError:
            self.checkpoints.wait()
            self._say_stopped()
            return {}

    def _fit(self) -> dict[str, Any]:
        config, is_main = self.config, self.parallel.is_main
        if is_main:
            write_json(config.output / "config.json", config_to_dict(config))
        self.parallel.barrier()
        steps = (self.step, self.total_steps, self.steps_per_epoch)
        announce(config, self.parallel_model, steps, self.global_batch_size, self.micro_batches)
        self.log = RunLog(config.output, self.total_steps, self.step, is_main, self.loggers)
        self.clock.start(self.step)
        with closing(self.loader), closing(self.log), communication_errors(), self.profiler:
            metrics = self._train_to_the_end()
            self.checkpoints.wait()
        return metrics

    def _train_to_the_end(self) -> dict[str, Any]:
        epoch_steps = self.steps_per_epoch
        is_early = self.step < self.total_steps
        metrics: dict[str, Any] | None = None  # of the weights of now
        if self._was_restored and is_early and self.validator.is_missing(self.step, epoch_steps):
            metrics = self._validate()
        while self.step < self.total_steps and not self._has_waited_enough():
            metrics = None
            if not self._train_epoch(*divmod(self.step, self.steps_per_epoch)):
                return {}
            if self.step < self.total_steps and self.validator.is_due(self.step, epoch_steps):
                metrics = self._validate()
        if metrics is None:
            metrics = self._validate()
        weights = self.config.output / WEIGHTS_NAME
        with self._as_told():
            export_weights(weights, self.parallel_model, self.classes, self.config.eval)
        if self.parallel.is_main:
            plot_losses(self.config.output / LOG_NAME, self.config.output / "loss.png")
            self.nonfinite_steps.say_if_all()
            logger.info("finished after %d steps; results are in %s", self.step, self.config.output)
        return metrics

    def _has_waited_enough(self) -> bool:
        """Whether the run ends here because the AP does not grow any more."""
        is_over = self.validator.has_waited_enough(self.step, self.steps_per_epoch)
        if is_over:
            logger.info(
                "ending after step %d of %d: no better AP since step %d (--patience %d)",
                *(self.step, self.total_steps, self.validator.best.step),
                self.config.tuning.patience,
            )
        return is_over

    def _train_epoch(self, epoch: int, start_step: int) -> bool:
        """The rest of one epoch, or of the run. Returns: whether to go on after it."""
        self.model.train()
        self.loader.batch_sampler.set_epoch(epoch, start_step)
        batches = iter(self.loader)
        for _ in range(start_step, self.steps_per_epoch):
            seed_all(self.config.seed, self.step, self.parallel.rank)
            micro_batches, failure = self._next(batches)
            count = sum(len(t["labels"]) for batch in micro_batches for t in batch.targets)
            num_instances, asked_to_stop, failures = self.parallel.host_sum(
                count, self._stop.received is not None, failure is not None
            )
            if asked_to_stop or failures:  # on any process: all of them save
                self._save_now()
            if asked_to_stop:
                self._say_stopped()
                return False
            if failure is not None:
                raise failure
            if failures:
                raise LostProcessError(
                    "another process of this run ended; its own message says why"
                )
            self._train_on(micro_batches, num_instances)
            if self.profiler.has_seen_enough():
                return False
            at_end = self.step == self.total_steps
            is_logging = self.step % self.config.logging.log_every == 0
            is_saving = at_end or 0 in (
                self.step % self.config.checkpoint.checkpoint_every,
                self.step % self.steps_per_epoch,
            )
            if is_logging or is_saving:
                self.nonfinite_steps.take_note(*self.window.fetch())
            if is_logging:
                self._log_losses()
            if is_saving:
                self.save()
            self.checkpoints.check()
            if at_end:
                if not is_logging:  # after saving: a longer run would average these steps later
                    self._log_losses()
                break
        return True

    def _next(self, batches: Iterator[ClipBatch]) -> tuple[list[ClipBatch], DataError | None]:
        """This process's micro-batches of the next step, or why there are none; counts the time
        spent waiting for them."""
        with self.clock.waiting(), record_function("step/data"):
            try:
                return [next(batches) for _ in range(self.micro_batches)], None
            except DeadWorkerError as error:
                cause: Exception = error
                failure = DataError(str(error))
            except (ValueError, OSError, EOFError) as error:
                # From a worker the sentence is the last line of a quoted traceback.
                last_line = (str(error).strip().splitlines() or [repr(error)])[-1]
                name = f"{type(error).__name__}: "
                failure = DataError(f"step {self.step + 1}: {last_line.removeprefix(name)}")
                cause = error
        failure.__cause__ = cause
        return [], failure

    def _train_on(self, micro_batches: list[ClipBatch], num_instances: float) -> None:
        schedule = (self.step, self.steps_per_epoch, self.total_steps)
        apply_schedule(self.optimizer, self.config.optim, *schedule)
        losses = self.training_step(
            [batch.to(self.device) for batch in micro_batches], num_instances
        )
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        clip_ids = [name for batch in micro_batches for name in batch.ids]
        self.window.add(self.step, clip_ids, losses)
        self.log.advance()

    def save(self) -> None:
        """Begin to write a checkpoint. All processes take part.

        Losses and gradients of every step so far must have been fetched.

        Raises: NonFiniteLossError when the last update broke the weights; nothing is written then.
        """
        if self.step == self.checkpoints.last_step:
            return
        own = is_finite(*(_local(p) for p in self.model.parameters()))
        if self.parallel.host_sum(not own)[0]:
            raise NonFiniteLossError(f"step {self.step}: the update made weights infinite or NaN")
        self.checkpoints.save(
            self.step,
            self._tensors(),
            {
                "step": self.step,
                "epoch": self.step // self.steps_per_epoch,
                "steps_per_epoch": self.steps_per_epoch,
                "global_batch_size": self.global_batch_size,
                "processes": self.parallel.world_size,
                "seconds": self.clock.seconds(),
                "log_window": self.window.fetched,
                "skipped_steps": self.nonfinite_steps.count,
                "scaler": self.precision.scaler.state_dict(),
                "args": config_to_dict(self.config),
                "classes": self.classes.to_dict(),
                "model_config": config_to_dict(self.config.model),
            },
        )

    def _save_now(self) -> None:
        self.nonfinite_steps.take_note(*self.window.fetch())
        self.save()
        self.checkpoints.wait()

    def _tensors(self) -> dict[str, Any]:
        tensors: dict[str, Any] = {
            "model": model_tensors(self.model),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
        }
        return tensors if self.average is None else {**tensors, AVERAGE: self.average.tensors()}

    def _as_told(self) -> AbstractContextManager[None]:
        """Inside, the weights are those that are validated and exported."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _restore(self, checkpoint: Path, saved: dict[str, Any]) -> None:
        check_same_data(checkpoint, saved, self.classes, self.steps_per_epoch)
        checkpoint, saved = load_newest(
            self.checkpoints, self.config, checkpoint, saved, self._tensors()
        )
        if not is_finite(*(_local(p) for p in self.model.parameters())):
            raise ValueError(
                f"{checkpoint} holds NaN or infinite weights; resume from an earlier one"
            )
        if saved["scaler"] and self.precision.scaler.is_enabled():
            self.precision.scaler.load_state_dict(saved["scaler"])
        self.step = saved["step"]
        self.clock.seconds_before = saved["seconds"]
        self.window.fetched = list(saved["log_window"])
        self.nonfinite_steps.count = saved["skipped_steps"]

    def _log_losses(self) -> None:
        """Mean losses since the last line, with learning rates and speed, to log and terminal."""
        means = self.window.take_mean()
        speed = self.clock.lap(self.step, self.total_steps, self.global_batch_size)
        if not means:  # every step was skipped
            self.nonfinite_steps.say_overflows(self.precision.scaler.get_scale())
            return
        rates = {group["name"]: group["lr"] for group in self.optimizer.param_groups}
        self.log.training_line(
            {
                "step": self.step,
                "epoch": (self.step - 1) // self.steps_per_epoch,
                **means,
                "lr": rates.get("main", 0.0),  # 0 where all of it is frozen
                "lr_backbone": rates.get("backbone", 0.0),
                "lr_linear_proj": rates.get("linear_proj", 0.0),
                **speed,
                "skipped_steps": self.nonfinite_steps.count,
                "memory_gb": memory_gb(self.device),
            }
        )

    def _validate(self) -> dict[str, Any]:
        """Score the validation set, where there is one; rank 0 writes metrics.json.

        Raises: StoppedError when the run is asked to stop meanwhile.
        """
        with self.clock.paused(), self._as_told():
            metrics = self.validator.score(self.parallel_model, self.step, self._stop)
        self.checkpoints.protected = self.validator.best.step
        if metrics:
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
            scores = {name: metrics[name] for name in SCORES}
            self.log.line({"step": self.step, "validation": scores})
        return metrics

    def _say_stopped(self) -> None:
        logger.info(
            "stopped after step %d as asked (%s); continue with --resume",
            self.step,
            self._stop.received or "by another process",
        )


def _with_global_batch(config: TrainConfig, size: int) -> TrainConfig:
    return replace(config, data=replace(config.data, global_batch_size=size))


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
