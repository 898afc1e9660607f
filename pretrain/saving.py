"""Saving a run: the state after an optimizer step becomes a checkpoint once, and all ranks know when it cannot be written."""

from __future__ import annotations

import time

from common import ranks
from pretrain import checkpoint, engine
from pretrain.log.monitor import Monitor
from pretrain.log.skipped_samples import SkippedSamples
from pretrain.model.encoder_files import CHECKPOINTS
from pretrain.setup import TrainingRun
from pretrain.step_checks import StepChecks


class Saver:
    """Saves the state of a run. Every rank calls each method, after the same optimizer step."""

    def __init__(self, run: TrainingRun, monitor: Monitor, skipped: SkippedSamples, checks: StepChecks) -> None:
        config = run.config
        self._run, self._monitor, self._skipped, self._checks = run, monitor, skipped, checks
        self._writer = checkpoint.CheckpointWriter(config.output / CHECKPOINTS, config.keep, config.keep_every, run.metadata)
        self._saved = run.first_step

    def save(self, step: int) -> None:
        """Begin to write a checkpoint after `step` steps, unless there is one already.

        Training waits until its tensors lie in the memory of rank 0. The steps up to here are checked first, and damaged samples
        that were skipped are listed, so that a run that resumes from here counts them.

        Raises InfrastructureError on all ranks when the checkpoint before could not be written, or when another job has taken
        the run's folder; and what `StepChecks.check` raises.
        """
        if step == self._saved:
            return
        self._checks.check()
        begin = time.perf_counter()
        self._skipped.list_new()
        weights, moments = engine.gather_state(self._run.engine)
        average = self._run.teacher.gather()

        def start() -> None:
            self._run.lock.check()
            files = {checkpoint.STUDENT: weights, checkpoint.TEACHER: average, checkpoint.OPTIMIZER: moments}
            self._writer.start(step, files, self._run.skipped_steps)

        ranks.on_main(start)
        self._saved = step
        self._monitor.scalars(step, {"speed/checkpoint_pause_seconds": time.perf_counter() - begin})

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises InfrastructureError on all ranks if it could not be written."""
        ranks.on_main(self._writer.wait)
