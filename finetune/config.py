"""Configuration of a fine-tuning run: the options of `finetune/run.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.hub import ModelPath
from common.storage import AnyPath
from data_prep.plan.label_blocks import SplitBlocks
from finetune.data.augmentation import Augmentation
from finetune.data.normalization import CHECKPOINT
from finetune.data.tables.pixel_task import pixel_task
from finetune.model.decoder import DecoderKind
from finetune.model.tuning import Rates, Tuning
from finetune.task import Compositing, Task, check_upsampled_sources
from finetune.training.schedule import Schedule
from pretrain.model import EncoderConfig

CONFIGS = Path(__file__).parent / "configs"
# The shape of pretrain/configs/tiny.yaml.
TINY_ENCODER = EncoderConfig(embed_dim=32, num_heads=(1, 2, 4, 8), depths=(2, 2, 2, 2), window_size=(4, 7, 7), drop_path_rate=0.0)

# New names of options by the names that they had before there were groups.
RENAMED_OPTIONS = {
    "sources": "override.sources",
    "label": "override.label",
    "frames": "override.frames",
    "window_px": "override.window_px",
    "missing_sources": "override.missing_sources",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "min_steps": "training.min_steps",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "tune": "tuning.mode",
    "layer_decay": "tuning.layer_decay",
    "lora_rank": "tuning.lora_rank",
    "decoder_channels": "decoder.channels",
    "detail_channels": "decoder.skip_channels",
    "rotations": "augmentation.rotations",
    "flips": "augmentation.flips",
    "shift_days": "augmentation.shift_days",
    "crop_px": "augmentation.crop_px",
    "drop_images": "augmentation.drop_images",
    "drop_sources": "augmentation.drop_sources",
}


@dataclass(frozen=True, kw_only=True)
class TaskOverride:
    """Values that replace those of the task; without a value the task's own is used.

    Attributes:
        sources: sources to read, for instance [sentinel2].
        label: name of the label in scene.yaml.
        frames: images per source.
        window_px: side of a window in pixels of the label.
        upsample: how often pixels of sources are repeated along rows and columns before the encoder, as in {modis: 4}.
        compositing: what a period of the season gives: image, its clearest image; or pixel, which fills what is not clear in it
            from the period's other images.
        missing_sources: whether scenes and samples may lack sources: error, or allow, with zeros in place of a missing source.
    """

    sources: list[str] | None = None
    label: str | None = None
    frames: int | None = None
    window_px: int | None = None
    upsample: dict[str, int] | None = None
    compositing: Compositing | None = None
    missing_sources: Literal["error", "allow"] | None = None

    def applied_to(self, task: Task) -> Task:
        """The task with these values. Raises ValueError for values that a task cannot have."""
        changes: dict[str, Any] = {name: value for name, value in vars(self).items() if value not in (None, [])}
        if "sources" in changes:
            changes["sources"] = tuple(changes["sources"])
        changed = replace(task, **changes)
        if self.upsample is not None:
            check_upsampled_sources(changed, "--override.upsample")
        return changed


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Kind and size of the decoder, or size of the baseline.

    Attributes:
        kind: map, that of --objective.predict map in pretraining, which is taken over from the checkpoint, all but its last
            layer; fusion, as published; linear, one linear layer on the features of each pixel, which with --tuning.mode frozen
            is logistic regression on what the encoder has learned; or auto: map if the checkpoint has such a decoder, else
            fusion.
        channels: width of the decoder; for unet the channels of its first level, for temporal_cnn the filters of a convolution.
        skip_channels: width of the skip connection from the input pixels to the decoder's head, which adds detail finer than
            the encoder's patches of 4 x 4 pixels; 0 for none, as published. Of the map decoder: width of its convolutions over
            the pixels. Baselines and linear have none.
    """

    kind: DecoderKind | Literal["auto"] = "auto"
    channels: int = 64
    skip_channels: int = 16


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune an encoder for a mapping task, or train a baseline; score it on the test scenes and map them.

    Attributes:
        task: a task of finetune/tasks/ (paddy_rice, cropland), or the path or URL of a YAML like theirs.
        data: folder of scenes (scene.yaml gives the split of each), of HDF5 samples with lists train.txt, val.txt and test.txt
            as published, of shards with labels, or of the description of a public data set (finetune/import_dataset.py), each
            also at a URL; the YAML that describes a table of pixel series (table.yaml); or a dataset of your own, FILE.py:CLASS.
        output: folder of the run: model.safetensors, metrics.json, maps/, TensorBoard logs.
        checkpoint: pretraining run, encoder.safetensors, AgriFM.pth, or hf://OWNER/NAME[@REVISION] at Hugging Face's hub; without
            it the weights are random.
        encoder: without a checkpoint, the shape of the encoder, as in --encoder.embed_dim 64 (its sources are those of the
            task), or the name of a baseline without pretraining: unet, temporal_cnn, or random_forest, which is fitted to all
            labelled pixels at once, so that --training does not count.
        best: score of the validation windows that chooses the epoch to keep: mean_f1, mean_iou, overall_accuracy, kappa, loss,
            or a score of one class, as in paddy_rice.f1; or last, the last epoch. The last epoch is also kept when no validation
            window holds the task's target class.
        normalization: mean and standard deviation by which the bands are normalised: checkpoint (as in its pretraining; without
            one, as task), task (of the clear pixels of all training windows), or the path or URL of a JSON file {source: {mean:
            [...], std: [...]}} in stored numbers, which may be the dataset.json of a corpus. With the limits low and high,
            numbers beyond count as these.
        statistics: those of the training windows: robust (without what is as bright as snow, and with limits four standard
            deviations from the mean), or plain (of all clear pixels without limits, as in earlier versions).
        label_fraction: fraction of the training windows that is used, at least one window, spread over the scenes and drawn by
            the seed; a smaller fraction is part of a larger one. All validation windows are used.
        year: year in which the season ends; by default that of each label, or, of a label that states none, the one with most
            images.
        overlap: share of a window that its neighbour covers, too, when the test scenes are mapped; from 0 to 0.9.
        maps: false leaves out what takes time beside the scores: maps, their pictures, the report, early-season scores, and
            TensorBoard's pictures of the confusion matrix.
        cache_folder: folder for the windows of training and validation, as they are read from data: uncompressed, so it needs the
            room of all their images in the season. Runs on the same data with the same windows share them, also at the same
            time, and leave them there. By default they are in the folder of the run, until it has finished.
        num_workers: processes of each rank that read batches ahead; by default 0 on CPUs and up to 4 on a GPU. 0 reads in the
            training process. Batches are the same.
        seed: seed of weights, order of windows, dates and augmentation.
        device: auto, cpu or cuda.
        resume: auto resumes from the newest good checkpoint in output, if there is one; never refuses a folder with a run.
        override: values that replace those of the task.
        training: schedule of the training.
        tuning: what of the encoder is trained, and how fast each part learns.
        decoder: size of the decoder.
        augmentation: random changes of the training windows.
        split_blocks: how the ground of scenes that state no split is divided into training, validation and test.
    """

    task: str
    data: AnyPath
    output: Path
    checkpoint: ModelPath | None = None
    encoder: EncoderConfig | Literal["unet", "temporal_cnn", "random_forest"] = TINY_ENCODER
    best: str = "mean_f1"
    normalization: str = CHECKPOINT
    statistics: Literal["robust", "plain"] = "robust"
    label_fraction: float = 1.0
    year: int | None = None
    overlap: float = 0.5
    maps: bool = True
    cache_folder: Path | None = None
    num_workers: int | None = None
    seed: int = 0
    device: str = "auto"
    resume: Literal["auto", "never"] = "auto"
    override: TaskOverride = field(default_factory=TaskOverride)
    training: Schedule = field(default_factory=Schedule)
    tuning: Tuning = field(default_factory=Tuning)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    split_blocks: SplitBlocks = field(default_factory=SplitBlocks)

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"--num_workers is {self.num_workers}; expected 0 (read in the training process) or more processes")
        if self.cache_folder is not None and self.cache_folder.absolute().is_relative_to(self.output.absolute()):
            raise ValueError(
                f"--cache_folder {self.cache_folder} lies in --output {self.output}, which is for this run alone; leave it out, "
                "and the windows lie there until the run has finished, or give another folder"
            )
        if self.training.compile and isinstance(self.encoder, str):
            raise ValueError(
                f"--training.compile compiles blocks of the encoder, and --encoder {self.encoder} has none; leave it out"
            )
        if self.training.channels_last and self.encoder != "unet":
            raise ValueError("--training.channels_last has an effect with --encoder unet only; leave it out")
        is_tuned = replace(self.tuning, lora_rank=Tuning.lora_rank) != Tuning() or self.decoder.kind != "auto"
        if isinstance(self.encoder, str) and (self.checkpoint or is_tuned):
            raise ValueError(
                f"--encoder {self.encoder} is a baseline without pretrained layers; leave --checkpoint, all of --tuning and "
                "--decoder.kind out"
            )
        if self.decoder.kind == "linear" and self.tuning.decoder_rate is not None:
            raise ValueError(
                f"--tuning.decoder_rate {self.tuning.decoder_rate} has no effect with --decoder.kind linear, which is a head "
                "alone; its rate is --training.learning_rate"
            )

    @property
    def patch_px(self) -> int:
        """Rows and columns of a patch of the model: those of the encoder, of a checkpoint the published ones; 1 of a baseline."""
        if isinstance(self.encoder, str):
            return 1
        shape = EncoderConfig() if self.checkpoint is not None else self.encoder
        return max(shape.patch_size[1:])

    def task_of_points(self, task: Task) -> Task:
        """The task for the points of a table. Raises ValueError for windows of more than one pixel."""
        if self.override.window_px not in (None, 1):
            raise ValueError(
                f"--override.window_px is {self.override.window_px}, and a table holds single pixels: leave it out; windows are "
                "of one pixel"
            )
        if self.override.upsample is not None:
            return replace(task, window_px=1)
        return pixel_task(task, self.patch_px)

    @property
    def rates(self) -> Rates:
        """The learning rates of the model's parts."""
        return self.tuning.rates(has_checkpoint=self.checkpoint is not None)
