"""A fine-tuning run from its configuration to its scores: prepare, train, map and score the test data, report."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from common import ranks
from common.errors import while_running
from common.exit_codes import STOPPED
from common.json_files import write_json
from common.rank_process import StopSignals
from common.run_lock import LOCK, RunLock
from common.stop_signals import interrupt_when_asked
from finetune.config import FinetuneConfig
from finetune.data.labelled_data import (
    LabelledData,
    LabelledScenes,
    check_classes,
    check_sources,
    check_splits_apart,
    one_pixel_size,
    rest_in_words,
)
from finetune.data.normalization import check_magnitudes, choose_normalization
from finetune.data.opening import open_data
from finetune.data.sample_windows import SampleWindows
from finetune.data.stored_windows import StoredWindows
from finetune.data.tables.table_data import TableData
from finetune.data.training_origin import training_origin
from finetune.data.window_dataset import compared_windows, note_windows_of_other_scale
from finetune.data.window_store_writing import stored
from finetune.device import pick_device
from finetune.evaluation import evaluate_test_data
from finetune.mapping.tiling import check_overlap
from finetune.model.crop_mapper import CropMapper
from finetune.model.initial_weights import check_bands, check_decoder
from finetune.model.model_file import MODEL_FILE, load_model
from finetune.model.random_forest import RandomForest
from finetune.model.recipe import SCRATCH, Recipe, build_model, encoder_of_recipe
from finetune.model.tuning import apply_tuning
from finetune.report.run_context import RunContext, software_versions, today
from finetune.report.run_report import run_report
from finetune.report.season_report import season_table, write_season
from finetune.run_folder import (
    MAPS_FOLDER,
    METRICS_FILE,
    REPORT_FILE,
    WINDOWS_FOLDER,
    check_holds_no_run,
    claim_run_folder,
    is_finished,
    recorded_settings,
    remove_windows,
)
from finetune.scoring.early_season import SeasonScores, score_season
from finetune.scoring.headline import headline, headline_interval
from finetune.scoring.score_text import TABLE_HEADER, about_unlabelled_classes, score_table
from finetune.sharing.describing import describe_run
from finetune.task import Task, load_task
from finetune.training.best_epoch import BestEpochCriterion, best_epoch_criterion, usable_criterion
from finetune.training.checkpoint import Progress
from finetune.training.data_parallel import check_batches_fill_ranks
from finetune.training.forest import TREES, fit_forest
from finetune.training.loop import TrainingJob, train
from finetune.training.losses import MapLoss, balanced_weights
from pretrain.model import load_decoder, load_encoder
from pretrain.model.encoder_files import pinned_encoder

MOST_WORKERS = 4  # processes of a rank that read ahead, unless the user chooses


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRun:
    """A run whose data are open and whose model is built; nothing but its windows is written yet.

    Attributes:
        config: its configuration.
        settings: content of run.json.
        data: the labelled data.
        training, validation: windows of these splits, training windows after the label fraction.
        test_data: the test split.
        all_windows: training windows before the label fraction.
        criterion: chooses the best epoch.
        notes: what the user should know about labels, classes and that choice.
        loss: loss of a map.
        recipe: what the model's file holds beside the weights, with the task.
        model: the model with its initial weights.
        normalization_origins: where the band statistics of each source are from, in words.
        training_origin: where and when the training data are from; see `finetune/data/training_origin.py`.
    """

    config: FinetuneConfig
    settings: dict[str, Any]
    data: LabelledData
    training: StoredWindows
    validation: StoredWindows
    test_data: LabelledScenes | SampleWindows
    all_windows: int
    criterion: BestEpochCriterion
    notes: list[str]
    loss: MapLoss
    recipe: Recipe
    model: nn.Module
    normalization_origins: dict[str, str]
    training_origin: dict[str, Any]

    @property
    def task(self) -> Task:
        """The task with every override."""
        return self.recipe.task

    @property
    def seen(self) -> dict[str, Any]:
        """What is seen of the data beside what run.json holds: the windows with their dates, and the years of the test data."""
        years = {str(year): count for year, count in sorted(self.test_data.years.items())}
        return {"training": self.training.key, "validation": self.validation.key, "years of the test data": years}


def fine_tune(config: FinetuneConfig) -> int:
    """Do what `config` asks for, from where an earlier start of the same run stopped; returns the exit code.

    Every rank calls this. Raises ValueError for a user's mistake, before the output folder is made; one that only shows in the
    pixels of images, after the windows are stored.
    """
    if config.resume == "never":
        check_holds_no_run(config.output)
    if config.checkpoint is not None:
        config = replace(config, checkpoint=pinned_encoder(config.checkpoint))
    task = config.override.applied_to(load_task(config.task))
    criterion = best_epoch_criterion(config.best, task)
    device = pick_device(config.device)
    check_overlap(config.overlap)
    data = open_data(config.data, config.split_blocks)
    if isinstance(data, TableData):
        task = config.task_of_points(task)
    check_sources(task, data.sensors)
    settings = recorded_settings(config, task, data.fingerprint(task))
    if is_finished(config.output, settings):
        remove_windows(config.output)
        print(f"{config.output} holds this run, finished; remove the folder to run it again")
        _show_scores(config, task)
        return 0

    is_main = ranks.announced_ranks()[0] == 0
    with RunLock(config.output / LOCK, config.output) as lock:
        run = prepare(config, task, settings, data, criterion, lock)
        if ranks.announced_ranks()[1] > 1:
            device = ranks.start_ranks(device_type=device.type)
        if not ranks.on_main(partial(claim_run_folder, config.output, settings, run.seen, config.resume, lock)):
            _show_beginning(run)
            progress = _train_until_stopped(run, device, lock)
            if progress is None:
                return STOPPED
            ranks.leave()  # scores and maps are the work of rank 0: no other waits for it
            if is_main:
                with interrupt_when_asked(), while_running("scoring and mapping the test data"):
                    _score_and_report(run, progress, device, lock)
        if is_main:
            remove_windows(config.output)
    if is_main:
        _show_scores(config, task)
    return 0


def prepare(
    config: FinetuneConfig,
    task: Task,
    settings: dict[str, Any],
    data: LabelledData,
    criterion: BestEpochCriterion,
    lock: RunLock,
) -> PreparedRun:
    """Open the splits of `data`, store their windows and build the model. Raises ValueError for what a user can get wrong."""
    torch.manual_seed(config.seed)
    if config.encoder == "random_forest" and ranks.announced_ranks()[1] > 1:
        raise ValueError("--encoder random_forest is fitted by one process: start finetune/run.py instead of launch/finetune.sh")
    pretrained, decoder, kind = None, None, config.decoder.kind
    if config.checkpoint is not None:
        pretrained = load_encoder(config.checkpoint)
        check_bands(pretrained, task, data.sensors, config.checkpoint)
        if isinstance(data, TableData) and max(pretrained.config.patch_size[1:]) != config.patch_px:
            raise ValueError(
                f"the encoder in {config.checkpoint} has patches of {pretrained.config.patch_size[1:]} pixels; points of a table "
                f"fill patches of {config.patch_px} x {config.patch_px} pixels, those of the published encoder"
            )
        decoder = load_decoder(config.checkpoint, pretrained) if kind in ("auto", "map") else None
        if decoder is not None:
            check_decoder(decoder, task, config.decoder.channels, config.decoder.skip_channels, config.checkpoint)
    if kind == "auto":
        kind = "fusion" if decoder is None else "map"
    training, validation = (
        data.windows(split, task, augmentation=config.augmentation, year=config.year) for split in ("train", "validation")
    )
    test_data = data.test_data(task, year=config.year)
    pixel = one_pixel_size(task, training, validation, test_data)
    check_splits_apart(training, validation, test_data)
    labels = data.labels(task)
    about_labels = [data.about_splits, rest_in_words(task, labels), check_classes(training, labels)]
    sensors = {source: data.sensors[source] for source in task.sources}
    all_windows, kept = len(training), training.share(config.label_fraction, config.seed)
    check_batches_fill_ranks(len(kept), config.training, ranks.announced_ranks()[1])
    # What can be found wrong without a look at images is right now: to store the windows may take hours.
    if ranks.announced_ranks()[0] == 0:
        lock.acquire()  # another job that has the folder is found now
    of_task = {name: getattr(task, name) for name in ("label", "season", "window_px")}
    about = {"path": settings["data"], "data": settings["data_sha256"], "year": config.year, **of_task}
    folder = config.cache_folder or config.output / WINDOWS_FOLDER
    origin = training_origin(training)
    training, validation = stored({"train": training, "validation": validation}, folder, about).values()
    # Before the label fraction: pixels without labels cost nothing, so all of them count in the statistics.
    known = pretrained.normalization if pretrained is not None else None
    of_windows = partial(training.statistics, robust=config.statistics == "robust")
    normalization, origins = choose_normalization(config.normalization, sensors, known, of_windows)
    for source, sensor in sensors.items():
        of_checkpoint = normalization[source] if origins[source] == "the checkpoint" else None
        check_magnitudes(source, training.statistics_of(compared_windows(training), source), sensor, of_checkpoint)
    note_windows_of_other_scale(validation, "validation", normalization)
    training.normalization = validation.normalization = normalization
    training.keep(kept)
    encoder = encoder_of_recipe(config.encoder, sensors, pretrained)
    recipe = Recipe(
        task=task,
        sensors=sensors,
        normalization=normalization,
        pixel=pixel,
        encoder=encoder,
        channels=config.decoder.channels,
        origin=str(config.checkpoint) if config.checkpoint else SCRATCH,
        detail_channels=0 if isinstance(encoder, str) or kind == "linear" else config.decoder.skip_channels,
        decoder=kind,
    )
    loss = MapLoss(task.loss_terms, balanced_weights(training))
    criterion, about_criterion = usable_criterion(criterion, task, validation.class_pixels())
    notes = list(filter(None, [*about_labels, about_criterion]))
    model = build_model(recipe, pretrained, decoder)
    apply_tuning(model, config.tuning)
    return PreparedRun(
        config=config, settings=settings, data=data, training=training, validation=validation, test_data=test_data,
        all_windows=all_windows, criterion=criterion, notes=notes, loss=loss, recipe=recipe, model=model,
        normalization_origins=origins, training_origin=origin,
    )  # fmt: skip


def _show_beginning(run: PreparedRun) -> None:
    """Print the size of the data and of the model."""
    learning = sum(weight.numel() for weight in run.model.parameters() if weight.requires_grad) / 1e6
    size = f"{TREES} trees" if isinstance(run.model, RandomForest) else f"{learning:.2f} M parameters learn"
    print(
        f"{run.task.title}: {len(run.training)} training and {len(run.validation)} validation windows, "
        f"{run.recipe.model_name}, {size}"
    )
    if run.data.about_splits:  # each scene may be in all splits
        years = run.training.years | run.validation.years | run.test_data.years
    else:
        years = run.training.years + run.validation.years + run.test_data.years
    if years:
        print(f"labelled seasons end in {', '.join(f'{year} ({count} labels)' for year, count in sorted(years.items()))}")
    for line in run.notes:
        print(line)
    if isinstance(run.model, CropMapper):
        print(_rates_in_words(run.config))
    print(f"pixels are normalised by {', '.join(f'{origin} ({source})' for source, origin in run.normalization_origins.items())}")


def _rates_in_words(config: FinetuneConfig) -> str:
    """The peaks of the learning rates of the encoder, the decoder and its head."""
    peak, rates = config.training.learning_rate, config.rates
    decay = "" if rates.layer_decay == 1 else f", {rates.layer_decay:g} times as much in each layer below its last"
    encoder = "none" if config.tuning.mode == "frozen" else f"{peak * rates.encoder:g}{decay}"
    decoder = "" if config.decoder.kind == "linear" else f"decoder {peak * rates.decoder:g}, "
    return f"peak learning rates: encoder {encoder}; {decoder}head {peak:g}"


def _train_until_stopped(run: PreparedRun, device: torch.device, lock: RunLock) -> Progress | None:
    """Train to the end of the schedule; None when a signal asked the run to stop."""
    config = run.config
    job = TrainingJob(
        model=run.model,
        recipe=run.recipe,
        training=run.training,
        validation=run.validation,
        schedule=config.training,
        loss=run.loss,
        criterion=run.criterion,
        output=config.output,
        lock=lock,
        seed=config.seed,
        rates=config.rates,
        num_workers=_num_workers(config.num_workers, device),
        figures=config.maps,
    )
    if isinstance(run.model, RandomForest):
        with interrupt_when_asked():
            return fit_forest(job, device)
    with StopSignals() as stop_signals:
        return train(job, device, is_asked_to_stop=lambda: stop_signals.received)


def _num_workers(chosen: int | None, device: torch.device) -> int:
    """Processes of this rank that read ahead. On CPUs, which the model keeps busy, they do not pay in short runs."""
    if chosen is not None:
        return chosen
    cores = len(os.sched_getaffinity(0)) // ranks.rank_and_world_size()[1]
    return max(1, min(MOST_WORKERS, cores - 1)) if device.type == "cuda" else 0


def _score_and_report(run: PreparedRun, progress: Progress, device: torch.device, lock: RunLock) -> None:
    """Map and score the test data with the model of the best epoch; write the report and, last, metrics.json."""
    config = run.config
    model, _ = load_model(config.output / MODEL_FILE)
    model.to(device)
    maps = config.output / MAPS_FOLDER if config.maps else None
    result = evaluate_test_data(model, run.recipe, run.test_data, maps, device, config.overlap)
    metrics = _run_metrics(run, progress, result)
    if maps is not None:
        season = _report_season(run, model, device, result) if run.task.cut_dates else None
        pictures = {path.stem: path for path in sorted(maps.glob("*.png"))}
        page = run_report(metrics, run.task, run.settings, pictures, _context(run), season)
        page.write(config.output / REPORT_FILE)
    lock.check()
    describe_run(config.output, run.settings, metrics)
    write_json(config.output / METRICS_FILE, metrics)


def _run_metrics(run: PreparedRun, progress: Progress, result: dict[str, Any]) -> dict[str, Any]:
    """Content of metrics.json; `result` are the scores of the test data."""
    recipe, schedule = run.recipe, run.config.training
    name, score = headline(result, run.task.target)
    class_names = [c.name for c in run.task.classes]
    return {
        "task": run.task.name,
        "encoder": recipe.encoder if isinstance(recipe.encoder, str) else recipe.origin,
        "model": recipe.model_name,
        "simulated": sorted(run.data.origin().simulated),
        "score": {
            "name": name,
            "class": run.task.target,
            "value": score,
            "interval": headline_interval(result, run.task.target),
        },
        "test": result,
        "validation": progress.best,
        "best_epoch": progress.best_epoch,
        "best_epoch_by": run.criterion.name,
        "history": progress.history,
        "training": {
            "windows": len(run.training),
            "of_windows": run.all_windows,
            "pixels": dict(zip(class_names, run.training.class_pixels().tolist(), strict=True)),
        }
        | ({} if isinstance(run.model, RandomForest) else {"steps": schedule.num_steps(len(run.training))}),
        "training_origin": run.training_origin,
    }


def _context(run: PreparedRun) -> RunContext:
    """What the report says of the run beside its scores."""
    origin = run.data.origin()
    return RunContext(
        folder=run.config.output,
        data=str(run.config.data),
        scenes=origin.scenes,
        simulated=origin.simulated,
        versions=software_versions(),
        date=today(),
    )


def _report_season(run: PreparedRun, model: nn.Module, device: torch.device, result: dict[str, Any]) -> SeasonScores:
    """Score the model at each date at which the task's season may end: files in the output folder, and a table.

    `result`: the scores of the test data over the whole season, the last of the season's scores.
    """
    test_data, task = run.test_data, run.task
    last_year = max(test_data.years)
    *cuts, _ = task.days_seen(last_year)

    def score_until(days: int) -> dict[str, Any]:
        if days not in cuts:
            return result
        with test_data.ended_after(days):
            return evaluate_test_data(model, run.recipe, test_data, None, device, run.config.overlap)

    season = score_season(score_until, task, last_year)
    write_season(season, run.config.output, bool(run.data.origin().simulated))
    print(f"\n{season_table(season)}")
    return season


def _show_scores(config: FinetuneConfig, task: Task) -> None:
    """Print the scores of the finished run in `config.output`, and where its files are."""
    output: Path = config.output
    metrics = json.loads((output / METRICS_FILE).read_text())
    name, score = metrics["score"]["name"], metrics["score"]["value"]
    aligned = ("left", *["right"] * (len(TABLE_HEADER) - 1))
    print(f"\n{task.title}, test scenes, {metrics['model']}, best epoch {metrics['best_epoch']}")
    print(tabulate(score_table(metrics["test"]), TABLE_HEADER, colalign=aligned, disable_numparse=True))
    if note := about_unlabelled_classes(metrics["test"]):
        print(note)
    shown = "not defined" if score is None else f"{100 * score:.2f} %"
    products = f"report: {output / REPORT_FILE}; maps in {output / MAPS_FOLDER}; " if config.maps else ""
    print(f"{name} {shown}; {products}curves: tensorboard --logdir {output}")
