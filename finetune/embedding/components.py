"""The components of the embeddings in a folder: computed once, or taken from a file, and kept beside the embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.json_files import json_bytes
from finetune.embedding.projection import Projection, fit_projection, load_projection
from finetune.embedding.sampling import sample_features
from finetune.embedding.scene_blocks import SceneCells

COMPONENTS_FILE = "pca.safetensors"


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How components are computed.

    Attributes:
        dimensions: number of principal components, or 0 for the features themselves.
        pca_windows: random windows of the sample.
        seed: seed of these windows.

    Raises ValueError for values out of range.
    """

    dimensions: int = 64
    pca_windows: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("dimensions", 0), ("pca_windows", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected at least {least}")


def components_in(
    folder: Path,
    cells: Sequence[SceneCells],
    options: SampleOptions,
    given: Path | None = None,
    check_lock: Callable[[], None] = lambda: None,
) -> Projection:
    """The projection of the embeddings in a folder, where it is written as `COMPONENTS_FILE`, unless it lies there.

    Args:
        folder: the folder.
        cells: the scenes from which the components are computed.
        options: how.
        given: a file with components to use instead.
        check_lock: called before the file is written; raises when another job writes there.

    Raises ValueError when components are of other features, or the folder holds others than are asked for.
    """
    path = folder / COMPONENTS_FILE
    of_features = about_features(cells[0])
    there = load_projection(path) if path.is_file() else None
    if there is not None:
        check_features(there, of_features, path)
    if given is not None:
        projection = load_projection(given)
        check_features(projection, of_features, given)
        if there is not None and there.digest != projection.digest:
            raise ValueError(f"{path} holds other components than --pca {given}; choose another --output")
    else:
        request = _about_sample(cells, options)
        if there is not None:
            if {name: there.sample.get(name) for name in request} != request:
                raise ValueError(
                    f"{path} was computed from another sample ({there.sample}); add embeddings to it with --pca {path}, or "
                    "choose another --output"
                )
            return there
        projection = _fit(path, cells, options, of_features, request)
    if there is None:
        check_lock()
        projection.save(path)
    return load_projection(path)


def _fit(
    path: Path, cells: Sequence[SceneCells], options: SampleOptions, features: dict[str, Any], request: dict[str, Any]
) -> Projection:
    sample, windows = sample_features(cells, options.pca_windows, options.seed)
    about = request | {"windows": dict(zip(request["scenes"], windows, strict=True)), "cells": len(sample)}
    projection = fit_projection(sample, options.dimensions, features, about)
    print(
        f"{path}: {projection.dimensions} of {sample.shape[1]} dimensions hold {100 * projection.variance.sum():.1f} % of the "
        f"variance of {len(sample)} cells in {sum(windows)} windows"
    )
    return projection


def about_features(cells: SceneCells) -> dict[str, Any]:
    """What the features are, with digests of the encoder's weights and of how it sees images: components fit no others."""
    model = cells.model
    seen = {
        "normalization": model.normalization,
        "images": [model.task.compositing, dict(model.task.upsample)],
        "windows": [model.task.window_px, model.pixel],
    }
    digest = hashlib.sha256(json_bytes(seen)).hexdigest()
    return {**cells.features.describe(), "weights": model.digest, "normalization, compositing and windows": digest}


def check_features(projection: Projection, features: dict[str, Any], path: Path) -> None:
    """Raises ValueError unless a projection, read from `path`, is one of these features."""
    other = [name for name, value in features.items() if projection.features.get(name) != value]
    if other:
        found = ", ".join(f"{name} {projection.features.get(name)} instead of {features[name]}" for name in other)
        raise ValueError(f"{path} holds components of other features: {found}; give the same model, or another file")


def _about_sample(cells: Sequence[SceneCells], options: SampleOptions) -> dict[str, Any]:
    """What the sample of the components depends on."""
    return {
        "scenes": [one.series.scene.name for one in cells],
        "years": [one.series.year for one in cells],
        "season": list(cells[0].model.task.season),
        **asdict(options),
    }
