"""An embedding from its configuration to its files: model, scenes, components, then maps or a table of points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.run_lock import LOCK, RunLock
from data_prep.archive.scene import SCENE_FILE, find_scenes
from data_prep.archive.sensor import load_sensors
from finetune.device import pick_device
from finetune.embedding.config import EmbedConfig
from finetune.embedding.features import EncoderFeatures
from finetune.embedding.points import SCENE, embed_points, read_points
from finetune.embedding.projection import Projection, fit_projection, load_projection
from finetune.embedding.sampling import sample_features
from finetune.embedding.scene_blocks import SceneCells, scene_cells
from finetune.embedding.scene_map import COMPONENTS_FILE, embed_scene
from finetune.embedding.settings import EmbeddingModel, load_embedding_model
from finetune.mapping.model_series import note_other_scale


def embed(config: EmbedConfig) -> list[Path]:
    """Do what `config` asks for, from where an earlier start of the same stopped; returns the files with embeddings.

    Raises ValueError for a user's mistake, before the output folder is made.
    """
    device = pick_device(config.device)
    points = None if config.points is None else read_points(config.points)
    given = None if config.pca is None else load_projection(config.pca)
    model, scenes = _open(config)
    features = EncoderFeatures(model.encoder, model.task.sources, model.task.frames, config.choice, device)
    cells = [scene_cells(model, features, series, config.options) for series in scenes]
    config.output.mkdir(parents=True, exist_ok=True)
    with RunLock(config.output / LOCK, config.output) as lock:
        lock.acquire()
        projection = _projection(config, cells, given, lock.check)
        if points is None:
            for one in cells:
                with one.series:
                    note_other_scale(one.series, model.normalization, one.geometry.window_px)
            return [embed_scene(one, projection, config.output, config.format, config.dtype, lock.check) for one in cells]
        path = config.output / f"{Path(str(config.points)).stem}_{config.year}.parquet"
        table = embed_points(points, cells, projection, path, lock.check)
    without = int(table[SCENE].isna().sum())
    missing = f"; {without} of them have no data in any scene, and no embedding" if without else ""
    print(f"{path}: {len(table)} points, {projection.dimensions} dimensions{missing}")
    return [path]


def _open(config: EmbedConfig) -> tuple[EmbeddingModel, list[Any]]:
    """The model, and the series of each scene."""
    scenes = find_scenes(config.input)
    is_scene = (config.input / SCENE_FILE).is_file()
    sensors = load_sensors((config.input.resolve().parent if is_scene else config.input) / "sources")
    model = load_embedding_model(
        config.model,
        scenes,
        sensors,
        task=config.task,
        override=config.override,
        season=config.season,
        normalization=config.normalization,
    )
    return model, [model.series(scene, config.year) for scene in scenes]


def _projection(
    config: EmbedConfig, cells: Sequence[SceneCells], given: Projection | None, check_lock: Callable[[], None]
) -> Projection:
    """The projection: the one that is given, the one that lies in the output, or one that is computed now; written there.

    Raises ValueError when one of them is of other features, or the output holds another one than is asked for.
    """
    path = config.output / COMPONENTS_FILE
    of_features = about_features(cells[0])
    there = load_projection(path) if path.is_file() else None
    if given is not None:
        check_features(given, of_features, config.pca or path)
        if there is not None and not _equal(there, given):
            raise ValueError(f"{path} holds other components than --pca {config.pca}; choose another --output")
        projection = given
    else:
        request = _about_sample(config, cells)
        if there is not None:
            check_features(there, of_features, path)
            if {name: there.sample.get(name) for name in request} != request:
                raise ValueError(
                    f"{path} was computed from another sample ({there.sample}); add embeddings to it with --pca {path}, or "
                    "choose another --output"
                )
            return there
        sample, windows = sample_features(cells, config.pca_windows, config.seed)
        request |= {"windows": dict(zip(request["scenes"], windows, strict=True)), "cells": len(sample)}
        projection = fit_projection(sample, config.dimensions, of_features, request)
        print(
            f"{path}: {projection.dimensions} of {sample.shape[1]} dimensions hold {100 * projection.variance.sum():.1f} % of "
            f"the variance of {len(sample)} cells in {sum(windows)} windows"
        )
    if there is None:
        check_lock()
        projection.save(path)
    return load_projection(path)


def about_features(cells: SceneCells) -> dict[str, Any]:
    """What the features are, with the digest of the encoder's weights: components fit no others."""
    return {**cells.features.describe(), "weights": cells.model.digest}


def check_features(projection: Projection, features: dict[str, Any], path: Path) -> None:
    """Raises ValueError unless a projection, read from `path`, is one of these features."""
    other = [name for name, value in features.items() if projection.features.get(name) != value]
    if other:
        found = ", ".join(f"{name} {projection.features.get(name)} instead of {features[name]}" for name in other)
        raise ValueError(f"{path} holds components of other features: {found}; give the same model, or another file")


def _about_sample(config: EmbedConfig, cells: Sequence[SceneCells]) -> dict[str, Any]:
    """What the sample of the components depends on."""
    return {
        "scenes": [one.series.scene.name for one in cells],
        "year": config.year,
        "season": list(cells[0].model.task.season),
        "pca_windows": config.pca_windows,
        "seed": config.seed,
        "dimensions": config.dimensions,
    }


def _equal(one: Projection, other: Projection) -> bool:
    matrices = [(mine, theirs) for mine, theirs in zip(one.affine(), other.affine(), strict=True)]
    scales = [(one.scale, other.scale), (one.offset, other.offset)]
    return all(mine.shape == theirs.shape and bool((mine == theirs).all()) for mine, theirs in matrices + scales)
