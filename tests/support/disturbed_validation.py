"""Pretraining whose validation is disturbed: `python -m tests.support.disturbed_validation ARGUMENTS`.

The environment variable VALIDATION is `fail`: every validation fails as on storage that is gone; or `stop`: the run is asked to
stop in its second step, and says when it validates.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from pretrain import train
from pretrain.evaluation.validation import Validation


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, "Input/output error of the test")


def tell(*_: Any) -> dict[str, dict[str, float]]:
    print("validated", flush=True)
    return {}


def stop_in_the_second_step() -> None:
    forward_backward = train.forward_backward

    def stopping(run: Any, batch: Any, step: int, *more: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward_backward(run, batch, step, *more)

    train.forward_backward = stopping


if __name__ == "__main__":
    if os.environ["VALIDATION"] == "fail":
        Validation.__call__ = fail  # type: ignore[method-assign, assignment]
    else:
        Validation.__call__ = tell  # type: ignore[method-assign, assignment]
        stop_in_the_second_step()
    train.main()
