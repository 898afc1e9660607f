"""Make the test bed: simulated landscapes in which context matters, and corpora for pretraining.

    python tests/bench/make_test_bed.py --output bed/
    python tests/bench/make_test_bed.py --output bed/ --parts tuning     # only what choices are made on

| folder | content |
|---|---|
| scenes/pretraining_same | landscapes of all fifteen climates: those of the test are in pretraining |
| scenes/pretraining_held_out | as many landscapes of the five training climates |
| scenes/finetuning | train: six landscapes of one region with labels; validation: five climates; test: five other climates |
| scenes/tuning | the same, but the test landscapes are further ones of the validation climates: for every choice |
| corpus/same, corpus/held_out | the corpora of shards of the two folders for pretraining |

The tasks are tests/bench/test_bed/*.yaml. Started again, it resumes. Nothing of `finetuning` that is for testing is in another
folder: landscapes of another round and seed have other land, weather and clouds.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from tabulate import tabulate  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.executors import map_local  # noqa: E402
from data_prep.simulation.context_regions import CONTEXT_REGIONS  # noqa: E402
from data_prep.simulation.map_errors import MapErrors, load_map_errors  # noqa: E402
from data_prep.simulation.scene_folder import write_scene_folder  # noqa: E402
from data_prep.simulation.scene_settings import SceneSettings  # noqa: E402

ROOT = Path(__file__).parents[2]
WINDOW_PX = 64
CORPORA = {"same": "pretraining_same", "held_out": "pretraining_held_out"}
FOLDERS = ("pretraining_same", "pretraining_held_out", "finetuning", "tuning")
# Rounds of landscapes for pretraining. Round 2 is for its validation, and rounds 7 to 12, half as wide, lie where 4 to 6 would.
PRETRAINING_ROUNDS = (0, 1, 3, *range(13, 100))
_CLIMATES = {
    split: [number for number, region in enumerate(CONTEXT_REGIONS) if region.split == split]
    for split in ("train", "validation", "test")
}


def scenes_of(folder: str, seed: int, landscapes: int = 120, side_px: int = 192) -> list[SceneSettings]:
    """The scenes of a folder of the bed, `side_px` Sentinel-2 pixels wide; `landscapes` of twice that width for pretraining.

    Validation and test landscapes have seeds of their own, `seed` + 1 and + 2, beside rounds that no other folder has.
    """
    train, validation, test = (_CLIMATES[split] for split in ("train", "validation", "test"))
    errors = load_map_errors("typical")
    scene = partial(_scene, seed=seed, side_px=2 * side_px, errors=errors)
    pretraining_validation = [scene(climate, 2, "validation") for climate in train[:2]]
    small = partial(_scene, side_px=side_px, errors=errors)
    labelled = [small(train[0], 7 + i, "train", seed=seed) for i in range(6)]
    checked = [small(climate, 7, "validation", seed=seed + 1) for climate in validation]
    folders = {
        "pretraining_same": _pretraining(scene, train + validation + test, landscapes),
        "pretraining_held_out": _pretraining(scene, train, landscapes),
        "finetuning": [*labelled, *checked, *(small(c, 7 + i, "test", seed=seed + 2) for c in test for i in range(5))],
        "tuning": [*labelled, *checked, *(small(c, 8 + i, "test", seed=seed + 1) for c in validation for i in range(2))],
    }
    return folders[folder] + (pretraining_validation if folder in CORPORA.values() else [])


def _pretraining(scene: Callable[..., SceneSettings], climates: Sequence[int], landscapes: int) -> list[SceneSettings]:
    """So many landscapes for pretraining, equally many of each climate."""
    rounds = PRETRAINING_ROUNDS[: landscapes // len(climates)]
    if landscapes < 1 or landscapes != len(climates) * len(rounds):
        raise ValueError(
            f"--landscapes is {landscapes}; expected a multiple of {len(climates)} climates, at most "
            f"{len(climates) * len(PRETRAINING_ROUNDS)}"
        )
    return [scene(climate, turn, "train") for climate in climates for turn in rounds]


def _scene(climate: int, turn: int, split: str, *, seed: int, side_px: int, errors: MapErrors | None) -> SceneSettings:
    """The landscape of a climate in a round; years differ by climate and round."""
    return SceneSettings(
        location=turn * len(CONTEXT_REGIONS) + climate,
        year=2018 + (climate + turn) % 6,
        seed=seed,
        landsat_px=side_px // 3,
        sentinel2_px=side_px,
        world="context",
        sources=("sentinel2",),
        split=split,
        map_errors=errors,
    )


def make_test_bed(
    output: Path,
    seed: int = 0,
    landscapes: int = 120,
    parts: list[str] = list(FOLDERS),  # noqa: B006
    workers: int = 2,
) -> None:
    """Make the scenes and corpora of the test bed.

    Args:
        output: folder of the bed.
        seed: seed of the bed.
        landscapes: number of those to pretrain on in each corpus, a multiple of 15.
        parts: folders of scenes, with their corpora: pretraining_same, pretraining_held_out, finetuning, tuning.
        workers: number of processes.
    """
    unknown = sorted(set(parts) - set(FOLDERS))
    if unknown:
        raise ValueError(f"--parts are {parts}; expected some of {', '.join(FOLDERS)}")
    rows = []
    for folder in parts:
        jobs = scenes_of(folder, seed, landscapes)
        target = output / "scenes" / folder
        target.mkdir(parents=True, exist_ok=True)
        made = map_local(partial(write_scene_folder, output=target), jobs, workers)
        for _ in tqdm(made, desc=folder, unit="scene", total=len(jobs)):
            pass
        windows = {split: _windows(jobs, split) for split in ("train", "validation", "test")}
        rows.append({"folder": folder, "landscapes": len(jobs), **{f"{split} windows": n for split, n in windows.items()}})
    for name, folder in CORPORA.items():
        if folder in parts:
            command = [sys.executable, "data_prep/shard.py", "--input", output / "scenes" / folder]
            command += ["--output", output / "corpus" / name, "--workers", str(workers), "--shard_mb", "64"]
            subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
    print(tabulate(rows, headers="keys"))
    print(f"tasks: {', '.join(str(path) for path in sorted((Path(__file__).parent / 'test_bed').glob('*.yaml')))}")


def _windows(scenes: list[SceneSettings], split: str) -> int:
    """Number of windows of 64 x 64 pixels in the scenes of a split."""
    return sum((scene.sentinel2_px // WINDOW_PX) ** 2 for scene in scenes if scene.region.split == split)


if __name__ == "__main__":
    run_command(make_test_bed)
