"""`train.py demo`: from nothing to trained weights, an AP table and pictures, in minutes on a CPU.

Makes a synthetic data set, trains on it with as many processes as the machine can serve, scores the
held-out videos, draws what was found, and writes the report page. Everything it writes is under the
run's folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from seqformer.annotations.ytvis import load_annotation_file
from seqformer.config import DemoConfig, ReportOptions
from seqformer.data.synthetic import SyntheticPaths, make_synthetic_dataset
from seqformer.data.video_sources import listed_videos
from seqformer.distributed.environment import launch
from seqformer.distributed.errors import LostProcessError
from seqformer.distributed.rendezvous import local_rendezvous
from seqformer.files import write_json
from seqformer.inference.results_file import load_results
from seqformer.processes import deaf_children, serve
from seqformer.report import write_report
from seqformer.trainer.checkpoint import CheckpointError
from seqformer.trainer.errors import DataError, SetupError, setup_errors
from seqformer.trainer.nonfinite_steps import NonFiniteLossError
from seqformer.trainer.run_folder import own_output, prepare_output
from seqformer.trainer.terminal import setup_logging
from seqformer.trainer.trainer import train
from seqformer.visualization.drawing import tracks_from_entries
from seqformer.visualization.showcase import clear_tracks, most_objects, showcase
from seqformer.visualization.video_writer import write_video

logger = logging.getLogger(__name__)

CONTENTION_SECONDS = 1.0
"""How long to look at what other programs do before choosing the number of processes."""
DRAWN_MIN_SCORE = 0.5


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """The whole demo, on processes of its own or on those that torchrun started.

    Returns: the metrics that are also in metrics.json; empty when it was asked to stop.
    """
    started = time.perf_counter()
    launched = launch().world_size
    with ExitStack() as stack:
        with setup_errors():  # until the end: the data and the picture lie there, too
            stack.enter_context(own_output(config, launch().rank == 0))
        return _run(config, started, launched)


def _run(config: DemoConfig, started: float, launched: int) -> dict[str, Any]:
    with setup_errors():
        prepare_output(config)
        processes, threads = choose_processes(
            replace(config, processes=launched) if launched > 1 else config
        )
    torch.set_num_threads(threads)
    config = _with_data(replace(config, processes=processes))
    peers: AbstractContextManager[dict[str, Any]] = nullcontext({})
    if launched <= 1:
        peers = _peers(config, processes, threads)
    with peers as session:
        with setup_errors():
            if launch().rank == 0:  # the others wait for it in `train`
                _make_data(config)
        metrics = train(config, **session)
    if not metrics:  # stopped by a signal, or not rank 0
        return {}
    _draw(config)
    page = _report(config)
    metrics["wall_seconds"] = round(time.perf_counter() - started, 1)
    write_json(config.output / "metrics.json", metrics)
    logger.info("AP %.3f after %.0f s; look at %s", metrics["AP"], metrics["wall_seconds"], page)
    return metrics


def usable_cores() -> int:
    """Cores that this process may use: its CPU set, and its cgroup's quota where there is one."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def free_cores() -> int:
    """Usable cores without those that other programs keep busy at this moment.

    Not the load average: for a minute after an installation that still shows the installer.
    """
    before = _processor_times()
    time.sleep(CONTENTION_SECONDS)
    busy, total = (now - then for now, then in zip(_processor_times(), before, strict=True))
    others = (os.cpu_count() or 1) * busy / total if total else 0.0
    return max(1, usable_cores() - round(others))


def _processor_times() -> tuple[int, int]:
    """(busy, all) ticks of the whole machine so far; zeros where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0, 0
    user, nice, system, idle, iowait, *rest = map(int, stat.read_text().split("\n")[0].split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + iowait


def choose_processes(config: DemoConfig) -> tuple[int, int]:
    """(processes, threads of each): one on a GPU, else two if two cores are free.

    Two one-thread processes beat one two-thread process, because at this size much of a step is
    Python and small operators that do not parallelise. OMP_NUM_THREADS is the most threads.

    Raises: ValueError when the batch cannot be shared evenly among the processes asked for.
    """
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    batch, free = config.data.batch_size, free_cores()
    processes = config.processes or (1 if on_gpu or free < 2 or batch % 2 else 2)
    if batch % processes:
        raise ValueError(
            f"--processes {processes} cannot share --data.batch-size {batch} evenly; "
            "make the batch a multiple of the processes"
        )
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, free // processes)
    threads = min(threads, int(allowed)) if allowed.isdecimal() and int(allowed) else threads
    logger.info(
        "%d of %d cores are free; using %d process(es) of %d thread(s)",
        free,
        usable_cores(),
        processes,
        threads,
    )
    return processes, threads


def _with_data(config: DemoConfig) -> DemoConfig:
    """Every process takes its share of the batch; where the data set will lie."""
    paths = SyntheticPaths.under(config.output / "data")
    data = replace(
        config.data,
        global_batch_size=config.data.global_batch_size or config.data.batch_size,
        train_images=paths.train_images,
        train_annotations=paths.train_annotations,
        val_images=paths.val_images,
        val_annotations=paths.val_annotations,
    )
    return replace(config, data=data)


def _make_data(config: DemoConfig) -> None:
    """Draw the data set, unless the run's folder already holds it."""
    height, width = config.frame_size
    make_synthetic_dataset(
        config.output / "data",
        num_train=config.num_train_videos,
        num_val=config.num_val_videos,
        num_frames=config.video_length,
        height=height,
        width=width,
        seed=config.data_seed,
    )


@contextmanager
def _peers(config: DemoConfig, processes: int, threads: int) -> Iterator[dict[str, Any]]:
    """Start the other processes of the run; this one is rank 0.

    They import their libraries while rank 0 draws the data set, then wait for it. Yields what
    `train` needs to meet them.
    """
    if processes == 1:
        yield {"rank": 0, "world_size": 1}
        return
    context = multiprocessing.get_context("spawn")
    session = {"world_size": processes, "rendezvous": local_rendezvous()}
    peers = [
        context.Process(
            target=serve, args=("train.py", _peer, config, threads, {**session, "rank": rank})
        )
        for rank in range(1, processes)
    ]
    with deaf_children():  # a request to stop reaches them through rank 0
        for peer in peers:
            peer.start()
    try:
        yield {**session, "rank": 0, "watch": lambda: _ended(peers)}
        for peer in peers:
            peer.join()
    finally:
        _stop(peers)


def _ended(peers: Sequence[BaseProcess]) -> str | None:
    """Which of them has ended, in words; from any thread."""
    ended = wait([peer.sentinel for peer in peers], timeout=0)
    ranks = [rank for rank, peer in enumerate(peers, 1) if peer.sentinel in ended]
    return f"rank {ranks[0]} ended before all had met" if ranks else None


def _peer(config: DemoConfig, threads: int, session: dict[str, Any]) -> None:
    torch.set_num_threads(threads)
    setup_logging(is_main=False)
    # Rank 0 sees these too, and says them.
    known = (SetupError, NonFiniteLossError, DataError, CheckpointError, LostProcessError)
    with suppress(*known):
        train(config, **session)


def _stop(peers: Sequence[BaseProcess]) -> None:
    for peer in peers:
        if peer.is_alive():
            peer.kill()
        peer.join()


def _draw(config: DemoConfig) -> None:
    """The held-out videos in which most was found, with their results, as a GIF."""
    images, annotated = config.data.val_images, config.data.val_annotations
    assert images is not None and annotated is not None  # see `_with_data`
    annotations = load_annotation_file(annotated)
    names = {c["id"]: c["name"] for c in annotations.categories}
    by_video: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in load_results(config.output / "results.json"):
        by_video[entry["video_id"]].append(entry)
    videos = listed_videos(annotations, images)
    results = [
        clear_tracks(tracks_from_entries(by_video[video.video_id]), DRAWN_MIN_SCORE)
        for video in videos
    ]
    shown = [(list(videos[i].frames()), results[i]) for i in most_objects(results)]
    write_video(config.output / "predictions.gif", showcase(shown, names))


def _report(config: DemoConfig) -> Path:
    """The page with the AP, its failures and the held-out videos."""
    annotations, results = config.data.val_annotations, config.output / "results.json"
    assert annotations is not None
    options = ReportOptions(title="The demo's held-out videos")
    folder = config.output / "report"
    return write_report(annotations, results, folder, config.data.val_images, options)
