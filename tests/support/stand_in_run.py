"""Takes the place of finetune/run.py in the tests of the comparison: made-up scores at once, errors and sleeps as asked for.

PLAN names a JSON file {"ENCODER seed N": "fail", "sleep" or "kill parent"}; every start is a line of PLAN.starts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

SCORES = {"unet": 0.8, "temporal_cnn": 0.7}


def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    plan = Path(os.environ["PLAN"])
    seed, encoder, fraction = int(options["--seed"]), options["--encoder"], float(options["--label_fraction"])
    key = f"{encoder} seed {seed}"
    with plan.with_suffix(".starts").open("a") as starts:
        starts.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {key} {fraction}\n")
    todo = json.loads(plan.read_text()).get(key)
    if todo == "fail":
        print("error: the label of scene b is upside down\ntraining: 3/4", end="", file=sys.stderr)
        sys.exit(2)
    if todo == "kill parent":
        os.kill(os.getppid(), signal.SIGKILL)
    if todo == "sleep":
        time.sleep(60)
    output = Path(options["--output"])
    output.mkdir(parents=True, exist_ok=True)
    value = SCORES[encoder] + 0.01 * seed**2 + 0.1 * fraction
    training = {"windows": round(100 * fraction), "of_windows": 100, "pixels": {"a": 1000, "b": 24}, "steps": 200}
    metrics = {"score": {"name": "paddy rice F1", "value": value, "interval": None}, "training": training, "test": {}}
    (output / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
