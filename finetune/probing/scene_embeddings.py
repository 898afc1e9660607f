"""The embeddings of the scenes of a probe: read from a folder, or computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.archive.scene import home_of_scenes
from finetune.data.scene_series import SceneSeries
from finetune.device import pick_device
from finetune.embedding.components import components_in
from finetune.embedding.features import EncoderFeatures
from finetune.embedding.reading import EmbeddingMap
from finetune.embedding.scene_blocks import SceneCells, scene_cells
from finetune.embedding.scene_map import SUFFIXES, embed_scene, embedding_path
from finetune.embedding.settings import EmbeddingModel, is_fine_tuned, load_embedding_model
from finetune.mapping.model_series import note_other_scale
from finetune.probing.config import ProbeConfig
from finetune.probing.labelled_pixels import Maps


def read_maps(folder: Path, labelled: Sequence[SceneSeries]) -> Maps:
    """The embeddings of labelled scenes in the years of their labels.

    Raises ValueError when one is missing, or when they do not have the same components.
    """
    maps: dict[tuple[str, int], EmbeddingMap] = {}
    for series in labelled:
        name, year = series.scene.name, series.year
        found = [path for kind in SUFFIXES if (path := embedding_path(folder, name, year, kind)).exists()]
        if not found:
            raise ValueError(
                f"no embedding of scene {name} and year {year} in {folder} ({embedding_path(folder, name, year, 'cog').name}); "
                "write it with agrifm embed, all with the same components (--pca)"
            )
        maps[name, year] = EmbeddingMap.open(found[0])
    kinds = {str(found.tags.get("components")): found.path for found in maps.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"the embeddings {' and '.join(map(str, kinds.values()))} have different components, so their numbers do not mean "
            "the same; write them again with one --pca"
        )
    return maps


def open_model(config: ProbeConfig, labelled: Sequence[SceneSeries]) -> EmbeddingModel:
    """The model that computes the embeddings. An encoder reads the images of the task, a fine-tuned model its own."""
    assert config.model is not None
    scenes = [series.scene for series in labelled]
    task = None if is_fine_tuned(config.model) else config.task
    home = home_of_scenes(config.data)
    return load_embedding_model(
        config.model, scenes, home, task=task, override=config.override, normalization=config.normalization
    )


def computed_maps(
    config: ProbeConfig,
    model: EmbeddingModel,
    training: Sequence[SceneSeries],
    others: Sequence[SceneSeries],
    folder: Path,
    check_lock: Callable[[], None],
) -> Maps:
    """Embed all scenes into a folder, unless they are there; components are those of the training scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    features = EncoderFeatures(model.encoder, model.task.sources, model.task.frames, config.choice, pick_device(config.device))

    def cells_of(series: SceneSeries) -> SceneCells:
        return scene_cells(model, features, model.series(series.scene, series.year), config.options)

    projection = components_in(folder, [cells_of(series) for series in training], config.sample, config.pca, check_lock)
    for series in (*training, *others):
        cells = cells_of(series)
        with cells.series:
            note_other_scale(cells.series, model.normalization, cells.geometry.window_px)
        embed_scene(cells, projection, folder, "cog", "int8", check_lock=check_lock)
    return read_maps(folder, [*training, *others])
