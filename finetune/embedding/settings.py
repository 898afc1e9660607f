"""The model of embeddings, and which images of a scene it reads: those that mapping reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.grid import grid_with_pixel_size
from common.storage import AnyPath, any_path
from data_prep.archive.scene import Scene, home_of_scenes
from data_prep.archive.sensor import Sensor
from finetune.config import TaskOverride
from finetune.data.normalization import CHECKPOINT, BandStatistics, read_band_statistics
from finetune.data.scene_series import FINEST, SceneSeries
from finetune.mapping.finished_blocks import weights_digest
from finetune.mapping.model_series import sensors_for_model
from finetune.model.crop_mapper import CropMapper
from finetune.model.initial_weights import check_bands
from finetune.model.model_file import FORMAT as FINE_TUNED
from finetune.model.model_file import MODEL_FILE, load_model
from finetune.task import MapClass, Task, load_task
from pretrain.model import VideoSwin, load_encoder

# Frames and windows of an encoder without a task: frames as in pretraining, windows of two patches of its last stage.
FRAMES, WINDOW_PX = 16, 64
WHOLE_YEAR = ("01-01", "12-31")


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingModel:
    """An encoder and what it reads.

    Attributes:
        encoder: the encoder.
        task: its sources, season, frames and windows. Label and classes do not count.
        sensors: meaning of the pixels of each source that is known with the weights; empty for an encoder that was not
            fine-tuned.
        normalization: statistics of the bands of each source.
        pixel: size of the pixels in which `task.window_px` counts, in units of the CRS; None for those of the finest source.
        origin: path of the weights.
        digest: digest of the weights.
    """

    encoder: VideoSwin
    task: Task
    sensors: Mapping[str, Sensor]
    normalization: Mapping[str, BandStatistics]
    pixel: float | None
    origin: str
    digest: str

    def series(self, scene: Scene, year: int) -> SceneSeries:
        """The images of a scene in the season that ends in `year`, on the grid of its finest source.

        Raises ValueError as `SceneSeries` does, and if a source has other bands than the encoder knows.
        """
        sensors = sensors_for_model(self.sensors, self.task.sources, home_of_scenes(scene.folder))
        check_bands(self.encoder, self.task, sensors, Path(self.origin))
        return SceneSeries(scene, self.task, sensors, pixel_size=FINEST, year=year)

    def window_px(self, series: SceneSeries) -> int:
        """Side of a window in pixels of the scene's finest source. Raises ValueError for a CRS of another unit."""
        if self.pixel is None:
            return self.task.window_px
        grid = grid_with_pixel_size(series.grid, self.pixel)
        return round(self.task.window_px * grid.pixel_side / series.grid.pixel_side)


def load_embedding_model(
    path: Path,
    scenes: Sequence[Scene],
    home: AnyPath,
    *,
    task: str | None = None,
    override: TaskOverride | None = None,
    season: tuple[str, str] | None = None,
    normalization: str = CHECKPOINT,
) -> EmbeddingModel:
    """The encoder at `path`, and what it reads.

    Args:
        path: a pretraining run, an encoder.safetensors or AgriFM.pth; or a fine-tuning run or its model.safetensors.
        scenes: the scenes to embed; an encoder without a task reads those of its sources that they have.
        home: the folder of the scenes, whose folder `sources` may describe sensors.
        task: a task whose images an encoder reads; a fine-tuned model knows its own.
        override: values that replace those of the task.
        season: first and last day, MM-DD, in place of the task's season.
        normalization: `checkpoint`, or a file with mean and standard deviation of the bands of each source.

    Raises ValueError for a baseline, which has no encoder; when the sources cannot be known; and when there is no normalisation.
    """
    stored = load_weights(path)
    known, trained = stored.task, stored.sensors
    if known is not None and task is not None:
        raise ValueError(f"--model {path} was fine-tuned for task {known.name}, whose images it reads; leave --task out")
    if known is None:
        known = load_task(task) if task is not None else _task_of_encoder(stored.encoder, scenes, override, path)
    chosen = (override or TaskOverride()).applied_to(known)
    chosen = replace(chosen, season=season) if season is not None else chosen
    chosen.season_of(2001)
    known_sensors = sensors_for_model(trained, chosen.sources, home)
    unknown = [source for source in chosen.sources if source not in known_sensors]
    if unknown:
        raise ValueError(
            f"unknown source {', '.join(unknown)}; known: {', '.join(known_sensors)}; choose with --override.sources"
        )
    read = {source: known_sensors[source] for source in chosen.sources}
    check_bands(stored.encoder, chosen, read, path)
    return EmbeddingModel(
        encoder=stored.encoder,
        task=chosen,
        sensors={source: sensor for source, sensor in trained.items() if source in chosen.sources},
        normalization=_normalization(normalization, stored.normalization, read, path),
        pixel=stored.pixel,
        origin=str(path),
        digest=weights_digest(stored.encoder),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWeights:
    """An encoder, and what is stored with its weights.

    Attributes:
        encoder: the encoder.
        task, sensors, pixel: of a fine-tuned model: its task, the meaning of its pixels and the size of those of its map.
        normalization: statistics of the bands of each source that has some.
    """

    encoder: VideoSwin
    task: Task | None
    sensors: Mapping[str, Sensor]
    pixel: float | None
    normalization: Mapping[str, BandStatistics]


def load_weights(path: Path) -> StoredWeights:
    """The encoder at `path`. Raises ValueError for a baseline, which has none."""
    if not is_fine_tuned(path):
        encoder = load_encoder(path)
        known = encoder.normalization or {}
        return StoredWeights(encoder=encoder, task=None, sensors={}, pixel=None, normalization=known)
    model, recipe = load_model(path)
    if not isinstance(model, CropMapper):
        raise ValueError(f"--model {path} is the baseline {recipe.encoder}, which has no encoder; give a model with one")
    return StoredWeights(
        encoder=model.encoder, task=recipe.task, sensors=recipe.sensors, pixel=recipe.pixel, normalization=recipe.normalization
    )


def is_fine_tuned(path: Path) -> bool:
    """Whether a fine-tuned model lies at `path`."""
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".safetensors":
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("format") == FINE_TUNED
    except SafetensorError:
        return False  # `load_encoder` says what is wrong with it


def _task_of_encoder(encoder: VideoSwin, scenes: Sequence[Scene], override: TaskOverride | None, path: Path) -> Task:
    """The images that an encoder without a task reads: 16 of the whole year, of all sources that it shares with the scenes.

    Scenes are read by tasks, which have a label and classes. Embeddings have none, so these are never looked at.
    """
    sources = tuple((override.sources if override else None) or ())
    if not sources:
        shared = {tuple(source for source in encoder.config.sources if source in scene.sources) for scene in scenes}
        if len(shared) > 1 or shared == {()}:
            raise ValueError(
                f"which sources to read cannot be known: --model {path} knows {', '.join(encoder.config.sources)}; of these the "
                f"scenes have {' or '.join(', '.join(found) or 'none' for found in sorted(shared))}; state --override.sources"
            )
        (sources,) = shared
    nothing = (MapClass(name="none", color="#000000"), MapClass(name="any", color="#ffffff", labels=("any",)))
    return Task(
        name="embedding",
        title="Embedding",
        label="",
        classes=nothing,
        sources=sources,
        frames=FRAMES,
        season=WHOLE_YEAR,
        window_px=WINDOW_PX,
    )


def _normalization(
    choice: str, of_model: Mapping[str, BandStatistics], sensors: Mapping[str, Sensor], path: Path
) -> dict[str, BandStatistics]:
    """Statistics of the bands of each source. Raises ValueError where they are not known."""
    if choice != CHECKPOINT:
        return read_band_statistics(any_path(choice), sensors)
    unknown = [source for source in sensors if source not in of_model]
    if unknown:
        raise ValueError(
            f"{path} does not say by which mean and standard deviation {', '.join(unknown)} was normalised in its pretraining; "
            "state them with --normalization FILE, such as the dataset.json of the corpus"
        )
    return {source: dict(of_model[source]) for source in sensors}
