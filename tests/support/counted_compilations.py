"""Pretraining that prints how many graphs torch has compiled: `python -m tests.support.counted_compilations ARGUMENTS`."""

from __future__ import annotations

from typing import Any

from torch._dynamo.utils import counters

from pretrain import train


def tell(when: str) -> None:
    print(f"graphs {when}: {counters['stats']['unique_graphs']}", flush=True)


def count() -> None:
    """Let the training loop of this process print the numbers."""
    set_up_run, finish = train.set_up_run, train._finish

    def told_set_up(*arguments: Any) -> Any:
        run = set_up_run(*arguments)
        tell("compared")
        return run

    def told_finish(*arguments: Any) -> None:
        tell("trained")
        finish(*arguments)

    train.set_up_run, train._finish = told_set_up, told_finish


if __name__ == "__main__":
    count()
    train.main()
