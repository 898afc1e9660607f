"""Configuration of a probe: the options of `finetune/probe.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from common.storage import AnyPath
from finetune.config import TaskOverride
from finetune.data.normalization import CHECKPOINT
from finetune.embedding.components import SampleOptions
from finetune.embedding.features import LEVELS, TimeAxis
from finetune.embedding.options import EmbeddingOptions
from finetune.probing.classifiers import Kind


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(EmbeddingOptions):
    """Probe embeddings for a mapping task: classifiers on the embeddings of labelled pixels, scored as fine-tuning is.

    Attributes:
        task: a task of finetune/tasks/, or the path or URL of a YAML like theirs.
        data: folder of scenes, also at a URL; scene.yaml gives the split of each.
        output: folder of the probe: metrics.json, report.html, and the embeddings if they are computed.
        model: compute the embeddings by this model, as `agrifm embed` does; the components are those of the training scenes.
        embeddings: folder with embeddings of all scenes, which `agrifm embed` wrote, instead of a model.
        probes: knn (nearest neighbours), logistic (logistic regression) and forest (random forest).
        k: neighbours of knn.
        label_fraction: fraction of the training windows that is used: those that fine-tuning uses with the same seed.
        year: year in which the season ends; by default that of each label, or, of a label that states none, the one with most
            images.
        seed: seed of the windows, of the pixels that are drawn where there are many, and of the forest.
        normalization: see `agrifm embed`; for a model.
        levels: levels of the encoder; for a model.
        time: keep or mean, what becomes of the frames that a level keeps; for a model.
        dimensions: dimensions of the embeddings; for a model.
        pca: a pca.safetensors whose components are used; for a model.
        pca_windows: windows from which the components are computed; for a model.
        overlap: share of a window that its neighbour covers too, 0 to 0.9; for a model.
        batch_size: windows per batch; for a model.
        device: auto, cpu or cuda; for a model.
        override: values that replace those of the task.
    """

    task: str
    data: AnyPath
    output: Path
    model: Path | None = None
    embeddings: Path | None = None
    probes: list[Kind] = field(default_factory=lambda: list(get_args(Kind)))
    k: int = 5
    label_fraction: float = 1.0
    year: int | None = None
    seed: int = 0
    normalization: str = CHECKPOINT
    levels: list[int] = field(default_factory=lambda: list(LEVELS))
    time: TimeAxis = "keep"
    dimensions: int = SampleOptions.dimensions
    pca: Path | None = None
    pca_windows: int = SampleOptions.pca_windows
    overlap: float = 0.5
    batch_size: int = 16
    device: str = "auto"
    override: TaskOverride = field(default_factory=TaskOverride)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.embeddings is None):
            raise ValueError("give either --model, to compute the embeddings, or --embeddings, a folder of `agrifm embed`")
        if not self.probes or len(set(self.probes)) < len(self.probes):
            raise ValueError(f"--probes are {self.probes}; expected some of {', '.join(get_args(Kind))}, each once")
        if self.k < 1:
            raise ValueError(f"--k is {self.k}; expected at least 1 neighbour")
        self.check_embedding()
