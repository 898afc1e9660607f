"""Command: fine-tune an encoder for a task, or train a baseline, score it on the test scenes, and map them.

    python finetune/run.py --task paddy_rice --data scenes/ --checkpoint runs/tiny --output runs/paddy_rice
    python finetune/run.py --task paddy_rice --data scenes/ --encoder unet --output runs/paddy_rice_unet
    bash launch/finetune.sh --task paddy_rice ...           # the same on several GPUs, or on two CPU processes

Where the encoder's weights come from:
    1. output holds the same run, finished: nothing is done, its table is shown again;
    2. output holds the same run, interrupted: it continues after its last epoch, or the step at which it was asked to stop;
    3. --checkpoint: a pretraining run, an encoder.safetensors or the published AgriFM.pth, strictly;
    4. otherwise random weights, of the shape in --encoder or of the baseline that it names.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import ranks
from common.atomic_files import write_json
from common.command_line import parse
from common.rank_process import STOPPED, StopSignals, end_when_asked, end_with, read_arguments
from finetune.data.augmentation import Augmentation
from finetune.data.labelled_data import check_sources, one_pixel_size
from finetune.data.opening import open_data
from finetune.data.windows import LabelledWindows
from finetune.device import pick_device
from finetune.evaluation import evaluate_test_data
from finetune.mapping.scene import check_overlap
from finetune.model.crop_mapper import MODEL_FILE, Recipe, build_model, load_model
from finetune.model.initial_weights import check_bands, fingerprint
from finetune.model.tuning import Mode, Tuning, prepare
from finetune.report.figures import season_figure
from finetune.report.page import Page
from finetune.report.run_report import run_report
from finetune.report.season_report import season_table, write_season
from finetune.scoring.early_season import score_season
from finetune.scoring.metrics import TABLE_HEADER, headline, headline_interval, table
from finetune.task import Task, load_task
from finetune.training.best_epoch import Selection, selection, selection_with
from finetune.training.loop import Progress, Schedule, check_share, evaluate, train
from finetune.training.losses import MapLoss, balanced_weights, check_classes
from pretrain.model import EncoderConfig, load_encoder

RUN_FILE = "run.json"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"

# The shape of pretrain/configs/tiny.yaml.
TINY = EncoderConfig(embed_dim=32, num_heads=(1, 2, 4, 8), depths=(2, 2, 2, 2), window_size=(4, 7, 7), drop_path_rate=0.0)


def run(
    task: str,
    data: Path,
    output: Path,
    checkpoint: Path | None = None,
    encoder: EncoderConfig | Literal["unet", "temporal_cnn"] = TINY,
    tune: Mode = "full",
    layer_decay: float = 1.0,
    lora_rank: int = 8,
    epochs: int = 20,
    batch_size: int = 8,
    label_fraction: float = 1.0,
    min_steps: int = 0,
    learning_rate: float = 1e-3,
    weight_decay: float = 5e-4,
    sources: list[str] | None = None,
    label: str | None = None,
    frames: int | None = None,
    window_px: int | None = None,
    year: int | None = None,
    best: str = "mean_f1",
    decoder_channels: int = 64,
    detail_channels: int = 16,
    missing_sources: Literal["error", "allow"] | None = None,
    rotations: bool = True,
    flips: bool = True,
    shift_days: float = 0.0,
    crop_px: int | None = None,
    drop_images: float = 0.0,
    drop_sources: float = 0.0,
    overlap: float = 0.5,
    maps: bool = True,
    cache_gb: float = 4.0,
    seed: int = 0,
    device: str = "auto",
    resume: Literal["auto", "never"] = "auto",
) -> int:
    """Fine-tune an encoder for a mapping task, score it on the test scenes and map them.

    Args:
        task: a task of finetune/tasks/ (paddy_rice, cropland) or the path of a YAML like theirs.
        data: folder of scenes (scene.yaml says in which split each is), of HDF5 samples with lists train.txt, val.txt and
            test.txt as published, of shards with labels; or a dataset of your own, FILE.py:CLASS.
        output: folder of the run: model.safetensors, metrics.json, maps/, TensorBoard.
        checkpoint: pretraining run, encoder.safetensors or AgriFM.pth; without it the weights are random.
        encoder: shape of the encoder without a checkpoint, as in --encoder.embed_dim 64 (its sources are those of the task), or
            a baseline without pretraining: unet or temporal_cnn.
        tune: what of the encoder learns: full, frozen (the decoder alone), or lora (low-rank changes; needs the extra lora).
        layer_decay: each layer of the encoder learns so many times as fast as the one above it; 0.75 spares the lower ones.
        lora_rank: rank of the changes that lora learns.
        epochs: passes over the training windows.
        batch_size: windows a step, of all ranks together.
        label_fraction: share of the training windows that is used, at least one, spread over the scenes and drawn by the seed;
            a smaller share is part of a larger one. All validation windows stay.
        min_steps: the run takes at least so many steps: an epoch passes over few windows as often as that needs.
        learning_rate: peak of the learning rate, after a warm-up and before a cosine that fit the length of the run.
        weight_decay: weight decay of AdamW.
        sources: sources instead of the task's, for instance [sentinel2].
        label: label raster instead of the task's.
        frames: images a source instead of the task's.
        window_px: side of a window in pixels of the label instead of the task's.
        year: year in which the season ends; the default takes the one with most images.
        best: score of the validation windows that says which epoch is kept: mean_f1, mean_iou, overall_accuracy, kappa, loss,
            or one of a class, as in paddy_rice.f1. Or last, the last epoch, which is taken, too, when no validation window holds
            the task's target class.
        decoder_channels: width of the decoder; channels of the U-Net's first level, filters of the temporal CNN.
        detail_channels: convolutions of the pixels that join the encoder's features, whose patches are 4 pixels wide, before the
            map is made; 0 leaves them out, as published.
        missing_sources: whether scenes and samples may lack sources (zeros stand for them) instead of as the task says: error or
            allow.
        rotations: in training windows are turned by quarters.
        flips: in training windows are mirrored.
        shift_days: in training each window's season is moved by up to so many days, as seasons differ between regions.
        crop_px: in training a random part of each window is taken, of so many pixels of the label.
        drop_images: in training each image is left out with this probability.
        drop_sources: in training each source is left out with this probability, but one.
        overlap: share of a window that its neighbour covers too when the test scenes are mapped.
        maps: false leaves out what takes time beside the scores: maps, their pictures, the report, the scores in early season.
        cache_gb: windows are kept in memory when they fit into so many gigabytes, of each split in each rank.
        seed: seed of weights, order of windows, dates and flips.
        device: auto, cpu or cuda.
        resume: auto goes on from the newest good checkpoint in output, if there is one; never wants a new folder.
    """
    if resume == "never" and (output / RUN_FILE).is_file():
        raise ValueError(f"{output} holds a run already; give another --output, or go on with --resume auto")
    chosen = load_task(task)
    changes = {"sources": tuple(sources) if sources else None, "label": label, "frames": frames, "window_px": window_px}
    changes["missing_sources"] = missing_sources
    chosen = replace(chosen, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    schedule = Schedule(
        epochs=epochs, batch_size=batch_size, min_steps=min_steps, learning_rate=learning_rate, weight_decay=weight_decay
    )
    tuning = Tuning(mode=tune, layer_decay=layer_decay, lora_rank=lora_rank)
    chosen_by = selection(best, chosen)
    if isinstance(encoder, str) and (checkpoint or tune != "full" or layer_decay < 1):
        raise ValueError(
            f"--encoder {encoder} is a baseline without pretrained layers; leave --checkpoint, --tune and --layer_decay out"
        )
    place = pick_device(device)
    check_overlap(overlap)
    augmentation = Augmentation(
        rotations=rotations, flips=flips, shift_days=shift_days, crop_px=crop_px, drop_images=drop_images,
        drop_sources=drop_sources,
    )  # fmt: skip
    labelled = open_data(data)
    sensors = labelled.sensors
    check_sources(chosen, sensors)
    settings = {
        **{f"task.{name}": value for name, value in chosen.to_dict().items()},
        "data": str(data.resolve()),
        "checkpoint": fingerprint(checkpoint),
        "encoder": None if checkpoint else encoder if isinstance(encoder, str) else encoder.to_dict(),
        **asdict(schedule),
        **{f"tuning.{name}": value for name, value in asdict(tuning).items()},
        "best": best,
        "year": year,
        "decoder_channels": decoder_channels,
        "detail_channels": detail_channels,
        **asdict(augmentation),
        "overlap": overlap,
        "label_fraction": label_fraction,
        "maps": maps,
        "seed": seed,
    }
    if is_finished(output, settings):
        print(f"{output} holds this run, finished; remove the folder to run it again")
        show(output, json.loads((output / METRICS_FILE).read_text()), chosen, maps)
        return 0

    torch.manual_seed(seed)
    backbone = None
    if checkpoint is not None:
        backbone = load_encoder(checkpoint)
        check_bands(backbone, chosen, sensors, checkpoint)
        encoder = backbone.config
    elif isinstance(encoder, EncoderConfig):
        encoder = replace(encoder, sources={source: len(sensors[source].bands) for source in chosen.sources})

    # Everything a user can get wrong is met before the output folder is made.
    training, validation = (
        labelled.windows(split, chosen, augmentation=augmentation, cache_gb=cache_gb, year=year)
        for split in ("train", "validation")
    )
    tests = labelled.test_data(chosen, year=year)
    pixel = one_pixel_size(chosen, training, validation, tests)
    check_classes(training)
    known = (backbone and backbone.normalization) or {}
    normalization = {source: known.get(source) or training.statistics(source) for source in chosen.sources}
    training.normalization = validation.normalization = normalization
    # After the statistics: pixels without labels cost nothing, so all of them say how the bands are normalised.
    windows_with_labels = len(training)
    training.keep_share(label_fraction, seed)
    check_share(len(training), schedule, ranks.announced_ranks()[1])
    loss = MapLoss(chosen.loss_terms, balanced_weights(training))
    recipe = Recipe(
        task=chosen,
        sensors={source: sensors[source] for source in chosen.sources},
        normalization=normalization,
        pixel=pixel,
        encoder=encoder if isinstance(encoder, str) else encoder.to_dict(),
        channels=decoder_channels,
        origin=str(checkpoint) if checkpoint else "scratch",
        detail_channels=0 if isinstance(encoder, str) else detail_channels,
    )
    chosen_by, note = selection_with(chosen_by, chosen, validation.class_pixels())
    model = build_model(recipe, backbone)
    prepare(model, tuning)
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad) / 1e6

    if ranks.announced_ranks()[1] > 1:
        place = ranks.start_ranks(device_type=place.type)
        ranks.barrier()  # all have looked into the output folder before rank 0 writes there
    if ranks.place()[0] == 0:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / RUN_FILE, settings)
    print(
        f"{chosen.title}: {len(training)} training and {len(validation)} validation windows, {recipe.model_name}, "
        f"{learning:.2f} M parameters learn{note and f'; {note}'}"
    )
    with StopSignals() as asked:
        progress = train(
            model, recipe, training, validation, schedule, loss, chosen_by, output, seed, place, layer_decay,
            is_asked_to_stop=lambda: asked.received,
        )  # fmt: skip
    is_main = ranks.place()[0] == 0
    ranks.leave()  # maps and scores are the work of rank 0: no other waits for it
    if progress.epoch < epochs:
        return STOPPED
    if not is_main:
        return 0
    trained, _ = load_model(output / MODEL_FILE)
    result = evaluate_test_data(trained.to(place), recipe, tests, output, place, overlap, maps)
    metrics = summary(recipe, progress, result, chosen_by)
    metrics["training"] = {
        "windows": len(training),
        "of_windows": windows_with_labels,
        "pixels": dict(zip((c.name for c in chosen.classes), training.class_pixels().tolist(), strict=True)),
        "steps": schedule.epochs * schedule.steps_per_epoch(len(training)),
    }
    if maps:
        page = run_report(metrics, chosen, settings, {p.stem: p for p in sorted((output / "maps").glob("*.png"))})
        if chosen.cut_dates:
            windows = labelled.windows("test", chosen, augmentation=None, cache_gb=cache_gb, year=year)
            windows.normalization = normalization
            report_season(windows, lambda: evaluate(trained, windows, batch_size, place, loss), output, page)
            windows.close()
        page.write(output / REPORT_FILE)
    else:
        shutil.rmtree(output / "maps")
    write_json(output / METRICS_FILE, metrics)  # last: it says that the run is finished
    for opened in (training, validation):
        opened.close()
    show(output, json.loads((output / METRICS_FILE).read_text()), chosen, maps)
    return 0


def report_season(windows: LabelledWindows, score: Callable[[], dict[str, Any]], output: Path, page: Page) -> None:
    """Score the model at each date at which its task's season may end: files in `output`, a part of the page, a table printed."""

    def score_until(days: int) -> dict[str, Any]:
        with windows.ended_after(days):
            return score()

    last_year = windows.window(0).year
    assert last_year is not None, "windows of a task with cut dates have dates"
    season = score_season(score_until, windows.task, last_year)
    write_season(season, output)
    page.heading("As the season goes on")
    page.picture(season_figure(season), "F1 on the windows of the test scenes by the last date that the model sees")
    print(f"\n{season_table(season)}")


def summary(recipe: Recipe, progress: Progress, result: dict[str, Any], chosen_by: Selection) -> dict[str, Any]:
    """Content of metrics.json."""
    name, score = headline(result, recipe.task.target)
    return {
        "task": recipe.task.name,
        "encoder": recipe.encoder if isinstance(recipe.encoder, str) else recipe.origin,
        "model": recipe.model_name,
        "score": {"name": name, "value": score, "interval": headline_interval(result, recipe.task.target)},
        "test": result,
        "validation": progress.best,
        "best_epoch": progress.best_epoch,
        "best_epoch_by": chosen_by.name,
        "history": progress.history,
    }


def show(output: Path, metrics: dict[str, Any], task: Task, maps: bool) -> None:
    """The table at the end of a run."""
    name, score = metrics["score"]["name"], metrics["score"]["value"]
    print(f"\n{task.title}, test scenes, {metrics['model']}, best epoch {metrics['best_epoch']}")
    print(
        tabulate(
            table(metrics["test"]), TABLE_HEADER, colalign=("left", *["right"] * (len(TABLE_HEADER) - 1)), disable_numparse=True
        )
    )
    shown = "not defined" if score is None else f"{100 * score:.2f} %"
    products = f"report: {output / REPORT_FILE}; maps in {output / 'maps'}; " if maps else ""
    print(f"{name} {shown}; {products}curves: tensorboard --logdir {output}")


def is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """Whether `output` holds this very run, finished. Raises ValueError when it holds another."""
    path = output / RUN_FILE
    if not path.is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise ValueError(f"--output {output} is not empty and holds no run of finetune/run.py; choose another folder")
        return False
    before, now = json.loads(path.read_text()), json.loads(json.dumps(settings))
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise ValueError(
            f"--output {output} holds a run with other settings ({', '.join(changed)}); choose another folder or remove it"
        )
    return (output / METRICS_FILE).is_file()


def main() -> NoReturn:
    """Entry of every rank; of several, rank 0 alone prints."""
    parameters = vars(read_arguments(lambda arguments: parse(run, arguments)))
    end_when_asked()
    end_with(lambda: run(**parameters))


if __name__ == "__main__":
    main()
