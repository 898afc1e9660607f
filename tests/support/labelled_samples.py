"""Small made-up samples for fine-tuning, and folders of them in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

FRAMES, SIDE, FACTOR = 8, 32, 16
YEAR = np.datetime64("2021-01-01")


def make_sample(seed: int, frames: int = FRAMES, side: int = SIDE) -> dict[str, Any]:
    """Landsat (T, 6, side, side), brighter in the second half where the label is 1; MODIS with 1/16 of its rows and columns."""
    rng = np.random.default_rng(seed)
    label = np.kron(rng.permutation(np.arange((side // 8) ** 2) % 2).reshape(side // 8, -1), np.ones((8, 8), int))
    late = np.arange(frames) >= frames / 2
    landsat = rng.normal(2000, 150, (frames, 6, side, side)) + 1500 * late[:, None, None, None] * (label == 1)
    modis = rng.normal(2000, 150, (frames, 7, side // FACTOR, side // FACTOR))
    return {
        "file_name": f"s{seed}",
        "data": {"landsat": landsat.astype(np.int16), "modis": modis.astype(np.int16)},
        "label": label,
    }


def write_hdf5(path: Path, sample: dict[str, Any], names: dict[str, str] | None = None) -> None:
    """A file of the published layout; `names` of the datasets by source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for source, pixels in sample["data"].items():
            file[(names or {}).get(source, source)] = pixels
        file["label"] = sample["label"]
        for group in ("valid", "dates"):
            for source, values in sample.get(group, {}).items():
                file[f"{group}/{source}"] = values


def write_published(folder: Path, splits: dict[str, list[dict[str, Any]]], names: dict[str, str] | None = None) -> None:
    """`data_lists/` and `h5_samples/`; keys of `splits` are train, val, test."""
    (folder / "data_lists").mkdir(parents=True)
    for split, samples in splits.items():
        lines = [sample["file_name"] for sample in samples]
        (folder / "data_lists" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for sample in samples:
            write_hdf5(folder / "h5_samples" / f"{sample['file_name']}.h5", sample, names)
