"""Options of the stream of batches: `--stream.*` of pretraining."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What goes into a batch.

    Attributes:
        num_frames: frames drawn from the year of each sample, in order of time.
        frame_draw: `random`: every subset of the year's frames is equally likely; or `stratified`: one frame from each of
            num_frames equal runs of them, so that no part of the year is left out.
        teacher_dates: `same`: student and teacher see the same frames; or `own`: the teacher's are another draw, which doubles
            what is read.
        global_batch_size: samples of a micro-batch over all ranks; one number, or one per source so that all cost alike.
        mixture: weight of each source; sources get micro-batches in proportion; default: all sources of the corpus equally.
        augment: draw one of the 8 flips and rotations for each sample.
        num_workers: processes that read ahead on each rank; 0 reads in the training process, which `read_timeout_s` cannot limit.
        read_timeout_s: longest time in seconds to wait for a process that reads a batch, as on a mount that does not answer; 0
            waits for ever.
        check_reads: compare everything that is read with the checksums in the shards.
        data_echoing: successive batches of a source that hold the same samples, with other frames and orientations, from one
            read; an epoch then shows every sample that many times. Use it where storage is slower than the GPU (data echoing:
            Choi et al. 2019, arXiv 1907.05550, trained ResNet-50 on ImageNet over a network in a third of the time).
        skip_damaged: damaged samples that a rank skips in the whole run, over restarts, each counted once, before it stops; 0
            stops at the first. Validation counts its own.
        cache: folder on this machine that keeps samples of a corpus at a URL for later epochs; default: no cache.
        cache_keep_free_gb: space that the cache leaves free on its disk, in GB.
        seed: of the order of samples, the frames and the orientations.
    """

    num_frames: int = 16
    frame_draw: Literal["random", "stratified"] = "random"
    teacher_dates: Literal["same", "own"] = "same"
    global_batch_size: dict[str, int] | int = 32
    mixture: dict[str, float] | None = None
    augment: bool = True
    num_workers: int = 2
    read_timeout_s: float = 600.0
    check_reads: bool = True
    data_echoing: int = 1
    skip_damaged: int = 0
    cache: Path | None = None
    cache_keep_free_gb: float = 50.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; expected at least 1")
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; expected 0 (read in the caller) or more processes")
        if self.num_workers and not hasattr(os, "memfd_create"):
            raise ValueError(f"num_workers is {self.num_workers}; worker processes need Linux; set it to 0 on this system")
        if not self.read_timeout_s >= 0:
            raise ValueError(f"read_timeout_s is {self.read_timeout_s}; expected 0 (no limit) or more seconds")
        if self.data_echoing < 1:
            raise ValueError(f"data_echoing is {self.data_echoing}; expected 1 (every batch is read) or more")
        if self.skip_damaged < 0:
            raise ValueError(f"skip_damaged is {self.skip_damaged}; expected 0 (stop at the first damaged sample) or more")
        if not self.cache_keep_free_gb >= 0:
            raise ValueError(f"cache_keep_free_gb is {self.cache_keep_free_gb}; expected 0 or more GB")
