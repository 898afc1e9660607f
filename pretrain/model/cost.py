"""The old name of the command `python -m pretrain.cost`, which still works."""

import runpy
import sys

if __name__ == "__main__":
    print("python -m pretrain.model.cost is now python -m pretrain.cost; the old name still works", file=sys.stderr)
    runpy.run_module("pretrain.cost", run_name="__main__", alter_sys=True)
