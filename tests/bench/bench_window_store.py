"""How fast fine-tuning reads its windows, and how long it waits for them.

    python tests/bench/bench_window_store.py --output tests/bench/results/window_store.json
    python tests/bench/bench_window_store.py --windows 64 --rounds 2 --steps 8          # to see that it works

Scenes of Landsat (30 m) and MODIS (480 m) are simulated, some of them copied under other names until there are enough windows.
In each round, in one process, these take their turn on windows in a random order that is new in every round; figures are medians
over rounds, and ratios medians of the ratios of a round.

`bare`: a copy of the bytes of each window through np.memmap. `stacks`: copies of the same arrays through the store.
`store`: training items from the store, which reads only the images that an item is made of. `memory`: the same items from a
dictionary of windows, as up to 4 GB were kept in each rank before there was a store. `alone`: the same items, each window read
from its scene, as all others were; of fewer windows, since it takes long. `ahead`: batches of items by so many processes.

`training`: a run of the small encoder of 3 M parameters, as it is by default, with 0, 1 and 2 processes that read ahead: the
share of the time of the steps of its last epoch in which it waited for batches, and windows per second of all of that epoch.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.archive.scene import load_scene  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from finetune.config import FinetuneConfig, TaskOverride  # noqa: E402
from finetune.data.batches import BatchDraw  # noqa: E402
from finetune.data.image_stack import ImageStack  # noqa: E402
from finetune.data.scene_windows import SceneWindows  # noqa: E402
from finetune.data.stored_windows import StoredWindows  # noqa: E402
from finetune.data.window_store_writing import stored  # noqa: E402
from finetune.fine_tuning import fine_tune  # noqa: E402
from finetune.task import load_task  # noqa: E402
from finetune.training.reading import BatchReading  # noqa: E402
from finetune.training.schedule import Schedule  # noqa: E402
from tests.support.rice_scenes import write_rice_scene  # noqa: E402

DISTINCT = 4  # scenes that are simulated; the rest are copies
SIDE_WINDOWS = 16  # windows along a side of a scene
BATCH = 8
WORKERS = (1, 2)


class InMemory(StoredWindows):
    """Windows that were read into memory."""

    def __init__(self, windows: StoredWindows, kept: Sequence[int]) -> None:
        super().__init__(windows._store, windows)
        self._held = {
            index: {s: ImageStack(pixels=v.pixels.copy(), valid=v.valid.copy()) for s, v in windows.stacks(index).items()}
            for index in kept
        }

    def stacks(self, index: int) -> dict[str, ImageStack]:
        """All images of the season over window `index`."""
        return self._held[index]


def write_scenes(folder: Path, windows: int, window_px: int, images: int) -> None:
    """Training scenes with so many windows, or some more, and a small scene for validation and for the test."""
    side = SIDE_WINDOWS * window_px
    for number in range(-(-windows // SIDE_WINDOWS**2)):
        scene = folder / f"train_{number:04d}"
        if number < DISTINCT:
            write_rice_scene(scene, "train", side=side, seed=number, frames=images)
            continue
        shutil.copytree(folder / f"train_{number % DISTINCT:04d}", scene)
        description = yaml.safe_load((scene / "scene.yaml").read_text())
        (scene / "scene.yaml").write_text(yaml.safe_dump(description | {"name": scene.name}))
    for split in ("validation", "test"):
        write_rice_scene(folder / split, split, side=2 * window_px, seed=99, frames=images)


def in_turns(work: dict[str, Callable[[np.random.Generator], int]], rounds: int) -> dict[str, np.ndarray]:
    """Windows per second of each in each round, after a round that warms up."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, each in work.items():
            begin = time.perf_counter()
            count = each(np.random.default_rng(number))
            if number:
                rates[name].append(count / (time.perf_counter() - begin))
    return {name: np.array(values) for name, values in rates.items()}


def bench_reading(straight: SceneWindows, windows: StoredWindows, at_once: int, alone: int, rounds: int) -> dict[str, Any]:
    """Rates of reading, and their ratios."""
    memory, offsets = windows._store._memory, windows._store.index.offsets
    held = InMemory(windows, range(min(len(windows), at_once)))
    held.normalization = straight.normalization = windows.normalization

    def bare(rng: np.random.Generator) -> int:
        chosen = rng.permutation(len(windows))[:at_once]
        for index in chosen:
            memory[offsets[index] : offsets[index + 1]].copy()
        return len(chosen)

    def stacks(rng: np.random.Generator) -> int:
        chosen = rng.permutation(len(windows))[:at_once]
        for index in chosen:
            for stack in windows.stacks(int(index)).values():
                stack.pixels.copy()
                stack.valid.copy()
        return len(chosen)

    def items(of: Any, among: int, count: int) -> Callable[[np.random.Generator], int]:
        def read(rng: np.random.Generator) -> int:
            chosen = rng.permutation(among)[:count]
            for index in chosen:
                of.read(int(index), rng)
            return len(chosen)

        return read

    def ahead(reading: BatchReading) -> Callable[[np.random.Generator], int]:
        def read(rng: np.random.Generator) -> int:
            order = rng.permutation(len(windows))[: at_once // BATCH * BATCH].reshape(-1, BATCH)
            draws = (BatchDraw.of_rank(batch, (0, number), 0, 1) for number, batch in enumerate(order))
            return sum(len(batch.names) for batch in reading.batches(windows, draws, augmented=True))

        return read

    work = {
        "bare": bare,
        "stacks": stacks,
        "store": items(windows, len(windows), at_once),
        "memory": items(held, len(held._held), at_once),
        "alone": items(straight, len(straight), alone),
    }
    readings = [BatchReading(count, torch.device("cpu")) for count in WORKERS]
    work |= {f"ahead_{count}": ahead(reading) for count, reading in zip(WORKERS, readings, strict=True)}
    try:
        rates = in_turns(work, rounds)
    finally:
        for reading in readings:
            reading.__exit__()
        straight.close()
    ratios = {
        "stacks_of_bare": ("stacks", "bare"),
        "store_of_memory": ("store", "memory"),
        "store_of_alone": ("store", "alone"),
        **{f"ahead_{count}_of_store": (f"ahead_{count}", "store") for count in WORKERS},
    }
    return {
        "windows_s": {name: round(float(np.median(values)), 1) for name, values in rates.items()},
        "bare_mb_s": round(float(np.median(rates["bare"])) * windows._store.index.nbytes / len(windows) / 1e6),
        "ratios": {name: round(float(np.median(rates[a] / rates[b])), 3) for name, (a, b) in ratios.items()},
    }


def bench_training(folder: Path, window_px: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Runs of the small encoder with each number of processes, in turns."""
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in (0, *WORKERS)}
    for number in range(rounds):
        for count, values in found.items():
            output = folder / f"run-{number}-{count}"
            config = FinetuneConfig(
                task="paddy_rice",
                data=folder / "scenes",
                output=output,
                maps=False,
                cache_folder=folder / "windows",
                num_workers=count,
                override=TaskOverride(window_px=window_px),
                training=Schedule(steps=2 * steps, epochs=2, batch_size=BATCH),
            )
            with redirect_stdout(StringIO()):
                assert fine_tune(config) == 0
            log = EventAccumulator(str(output)).Reload()
            waited = log.Scalars("train/waited_for_data")
            seconds = log.Scalars("train/loss")[1].wall_time - log.Scalars("train/loss")[0].wall_time
            values.append((waited[1].value, steps * BATCH / seconds))
            shutil.rmtree(output)
    return [
        {
            "processes": count,
            "share_waited": round(float(np.median([share for share, _ in values])), 4),
            "windows_s": round(float(np.median([rate for _, rate in values])), 2),
            "times_no_process": round(
                float(np.median([rate / base for (_, rate), (_, base) in zip(values, found[0], strict=True)])), 3
            ),
        }
        for count, values in found.items()
    ]


def bench_window_store(
    output: Path | None = None,
    windows: int = 20_000,
    window_px: int = 32,
    images: int = 24,
    at_once: int = 400,
    alone: int = 50,
    rounds: int = 7,
    steps: int = 16,
    training_rounds: int = 3,
    folder: Path | None = None,
) -> None:
    """Measure the window store.

    Args:
        output: JSON file to write; default: print only.
        windows: number of training windows, rounded up to whole scenes.
        window_px: side of a window in pixels of 30 m.
        images: images of each source in the year.
        at_once: windows that are read in one turn.
        alone: windows that are read alone from scenes in one turn.
        rounds: rounds in which every way to read takes its turn.
        steps: training steps of each of two epochs.
        training_rounds: runs with each number of processes.
        folder: where scenes and windows are written, for instance on another disk; default: the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        write_scenes(place / "scenes", windows, window_px, images)
        task = replace(load_task("paddy_rice"), window_px=window_px)
        scenes = [load_scene(path) for path in sorted((place / "scenes").glob("train_*"))]
        straight = SceneWindows(scenes, task, load_sensors())
        begin = time.perf_counter()
        kept = stored({"train": straight}, place / "bench", {"data": "bench"})["train"]
        seconds = time.perf_counter() - begin
        megabytes = kept._store.index.nbytes / 1e6
        kept.normalization = {source: kept.statistics_of(range(64), source) for source in task.sources}
        result = {
            "windows": len(kept),
            "store_mb": round(megabytes),
            "writing_s": round(seconds, 1),
            "writing_mb_s": round(megabytes / seconds),
            "reading": bench_reading(straight, kept, at_once, alone, rounds),
        }
        print(result, flush=True)
        shutil.rmtree(place / "bench")
        result["training"] = bench_training(place, window_px, steps, training_rounds)
        print(result["training"], flush=True)
    settings = {"window_px": window_px, "images": images, "batch": BATCH, "at_once": at_once, "rounds": rounds, "steps": steps}
    settings |= {"threads": torch.get_num_threads()}
    write_report(output, ("torch", "numpy", "zarr"), {"settings": settings, **result})


if __name__ == "__main__":
    run_command(bench_window_store)
