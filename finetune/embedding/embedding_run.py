"""An embedding from its configuration to its files: model, scenes, components, then maps or a table of points."""

from __future__ import annotations

from pathlib import Path

from common.run_lock import LOCK, RunLock
from data_prep.archive.scene import find_scenes, home_of_scenes
from finetune.data.scene_series import SceneSeries
from finetune.device import pick_device
from finetune.embedding.components import about_features, check_features, components_in
from finetune.embedding.config import EmbedConfig
from finetune.embedding.features import EncoderFeatures
from finetune.embedding.points import SCENE, embed_points, read_points
from finetune.embedding.projection import load_projection
from finetune.embedding.scene_blocks import scene_cells
from finetune.embedding.scene_map import embed_scene
from finetune.embedding.settings import EmbeddingModel, load_embedding_model
from finetune.mapping.model_series import note_other_scale


def embed(config: EmbedConfig) -> list[Path]:
    """Do what `config` asks for, from where an earlier start of the same stopped; returns the files with embeddings.

    Raises ValueError for a user's mistake, before the output folder is made.
    """
    device = pick_device(config.device)
    points = None if config.points is None else read_points(config.points)
    model, scenes = _open(config)
    features = EncoderFeatures(model.encoder, model.task.sources, model.task.frames, config.choice, device)
    cells = [scene_cells(model, features, series, config.options) for series in scenes]
    if config.pca is not None:
        check_features(load_projection(config.pca), about_features(cells[0]), config.pca)
    config.output.mkdir(parents=True, exist_ok=True)
    with RunLock(config.output / LOCK, config.output) as lock:
        lock.acquire()
        projection = components_in(config.output, cells, config.sample, config.pca, lock.check)
        for one in cells:
            with one.series:
                note_other_scale(one.series, model.normalization, one.geometry.window_px)
        if points is None:
            to = config.output, config.format, config.dtype
            return [embed_scene(one, projection, *to, config.processes, lock.check) for one in cells]
        path = config.output / f"{Path(str(config.points)).stem}_{config.year}.parquet"
        table = embed_points(points, cells, projection, path, lock.check)
    without = int(table[SCENE].isna().sum())
    missing = f"; {without} of them have no data in any scene, and no embedding" if without else ""
    print(f"{path}: {len(table)} points, {projection.dimensions} dimensions{missing}")
    return [path]


def _open(config: EmbedConfig) -> tuple[EmbeddingModel, list[SceneSeries]]:
    """The model, and the series of each scene."""
    scenes = find_scenes(config.input)
    model = load_embedding_model(
        config.model,
        scenes,
        home_of_scenes(config.input),
        task=config.task,
        override=config.override,
        season=config.season,
        normalization=config.normalization,
    )
    return model, [model.series(scene, config.year) for scene in scenes]
