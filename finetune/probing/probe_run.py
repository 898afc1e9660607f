"""A probe from its configuration to its scores: labels, embeddings, classifiers, test scenes, report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from common.errors import while_running
from common.json_files import write_json
from common.run_lock import LOCK, RunLock, is_lock
from finetune.data.labelled_data import (
    LabelledScenes,
    SceneData,
    check_classes,
    check_sources,
    check_splits_apart,
    rest_in_words,
)
from finetune.data.opening import open_data
from finetune.data.scene_windows import SceneWindows
from finetune.embedding.scene_map import stated_identity
from finetune.embedding.settings import EmbeddingModel
from finetune.probing.classifiers import TITLES, Pixels, Probe, fit_probe
from finetune.probing.config import ProbeConfig
from finetune.probing.labelled_pixels import Maps, map_scene, pixels_of_windows
from finetune.probing.probe_page import probe_page, probe_table
from finetune.probing.scene_embeddings import computed_maps, open_model, read_maps
from finetune.run_folder import METRICS_FILE, REPORT_FILE, RUN_FILE
from finetune.scoring.headline import headline, headline_interval
from finetune.scoring.map_scores import MapScores
from finetune.scoring.score_text import TABLE_HEADER, about_unlabelled_classes, score_table
from finetune.task import Task, load_task

EMBEDDINGS_FOLDER = "embeddings"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSplits:
    """The labels of a probe, those of fine-tuning.

    Attributes:
        task: the task with every override.
        training, validation: windows of these splits, training windows after the label fraction.
        test: the test scenes.
        all_windows: training windows before the label fraction.
        notes: what the user should know about labels and classes.
    """

    task: Task
    training: SceneWindows
    validation: SceneWindows
    test: LabelledScenes
    all_windows: int
    notes: list[str]


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Do what `config` asks for, and return the content of metrics.json; a finished probe is only shown again.

    Raises ValueError for a user's mistake, before the output folder is made.
    """
    task = config.override.applied_to(load_task(config.task))
    data = open_data(config.data)
    check_sources(task, data.sensors)
    if not isinstance(data, SceneData):
        raise ValueError(f"--data {config.data} holds samples; a probe needs scenes, as embeddings are maps")
    labelled = open_labels(config, task, data)
    series = [*labelled.training.series, *labelled.validation.series, *labelled.test.series]
    model, maps = None, None
    if config.embeddings is not None:
        maps = read_maps(config.embeddings, series)
    else:
        model = open_model(config, series)
    settings = _settings(config, task, data.fingerprint(task), model, maps)
    if _is_finished(config.output, settings):
        print(f"{config.output} holds this probe, finished; remove the folder to run it again")
        return _shown(config, task)
    config.output.mkdir(parents=True, exist_ok=True)
    with RunLock(config.output / LOCK, config.output) as lock:
        lock.acquire()
        write_json(config.output / RUN_FILE, settings)
        for line in labelled.notes:
            print(line)
        if maps is None:
            assert model is not None
            others = [*labelled.validation.series, *labelled.test.series]
            folder = config.output / EMBEDDINGS_FOLDER
            maps = computed_maps(config, model, labelled.training.series, others, folder, lock.check)
        with while_running("probing the embeddings"):
            metrics = _metrics(config, labelled, maps)
        lock.check()
        with while_running(f"writing {config.output}"):
            probe_page(metrics, task, settings).write(config.output / REPORT_FILE)
            write_json(config.output / METRICS_FILE, metrics)
    return _shown(config, task)


def open_labels(config: ProbeConfig, task: Task, data: SceneData) -> LabelledSplits:
    """The labels of all splits, with the checks and the label fraction of fine-tuning. Raises ValueError as that does."""
    training, validation = (data.windows(split, task, augmentation=None, year=config.year) for split in ("train", "validation"))
    test = data.test_data(task, year=config.year)
    check_splits_apart(training, validation, test)
    labels = data.labels(task)
    notes = [rest_in_words(task, labels), check_classes(training, labels)]
    all_windows = len(training)
    training.keep_share(config.label_fraction, config.seed)
    return LabelledSplits(
        task=task,
        training=training,
        validation=validation,
        test=test,
        all_windows=all_windows,
        notes=[line for line in notes if line],
    )


def _metrics(config: ProbeConfig, labelled: LabelledSplits, maps: Maps) -> dict[str, Any]:
    """Fit all probes and score them on the test scenes."""
    task = labelled.task
    training = pixels_of_windows(labelled.training, maps, config.seed)
    validation = pixels_of_windows(labelled.validation, maps, config.seed)
    probes = {}
    for kind in config.probes:
        fitted = fit_probe(kind, training, validation, task, config.k, config.seed)
        probes[kind] = _scored(fitted, _test_scores(fitted, labelled.test, maps, task), task)
    best = max(probes, key=lambda kind: _number(headline(probes[kind]["validation"], task.target)[1]))
    about = next(iter(maps.values())).tags
    return {
        "task": task.name,
        "encoder": about["model"],
        "model": f"{TITLES[best]} on embeddings of {about['model']}",
        "probe": best,
        **{name: probes[best][name] for name in ("score", "test", "validation")},
        "probes": probes,
        "training": _about_training(labelled, training),
        "embeddings": {name: about.get(name) for name in ("model", "model_weights", "components", "levels", "time_axis")}
        | {"dimensions": training.embeddings.shape[1]},
    }


def _scored(fitted: Probe, test: dict[str, Any], task: Task) -> dict[str, Any]:
    name, value = headline(test, task.target)
    score = {"name": name, "class": task.target, "value": value, "interval": headline_interval(test, task.target)}
    return {"score": score, "settings": fitted.settings, "validation": fitted.validation, "test": test}


def _test_scores(fitted: Probe, test: LabelledScenes, maps: Maps, task: Task) -> dict[str, Any]:
    """Scores of the maps of all test scenes, as fine-tuning computes them."""
    found = MapScores(task)
    for series in test.series:
        name = series.scene.name
        label = test.labels[name]
        found.add(name, label, map_scene(series, label, maps[name, series.year], fitted.predict))
    return found.result()


def _about_training(labelled: LabelledSplits, pixels: Pixels) -> dict[str, Any]:
    names = [c.name for c in labelled.task.classes]
    return {
        "windows": len(labelled.training),
        "of_windows": labelled.all_windows,
        "pixels": dict(zip(names, labelled.training.class_pixels().tolist(), strict=True)),
        "used_pixels": len(pixels),
    }


def _settings(
    config: ProbeConfig, task: Task, data_sha256: str, model: EmbeddingModel | None, maps: Maps | None
) -> dict[str, Any]:
    """Content of run.json: everything that the results depend on, as plain values."""
    settings: dict[str, Any] = {
        **{f"task.{name}": value for name, value in task.to_dict().items()},
        "data": str(config.data.resolve()),
        "data_sha256": data_sha256,
        "probes": config.probes,
        "k": config.k,
        "label_fraction": config.label_fraction,
        "year": config.year,
        "seed": config.seed,
    }
    if maps is not None:
        settings["embeddings"] = {
            f"{scene}_{year}": [stated_identity(found.path), *map(found.tags.get, ("components", "model_weights", "last_image"))]
            for (scene, year), found in maps.items()
        }
    if model is not None:
        settings |= {
            "model_weights": model.digest,
            "normalization": json.dumps(model.normalization, sort_keys=True),
            "levels": config.levels,
            "time": config.time,
            "pca": str(config.pca) if config.pca else None,
            **asdict(config.sample),
            **asdict(config.options),
        }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """True when `output` holds the probe with these settings, finished; False when it is empty or holds it unfinished.

    Raises ValueError when it holds something else.
    """
    path = output / RUN_FILE
    if not path.is_file():
        if output.exists() and (not output.is_dir() or not all(map(is_lock, output.iterdir()))):
            raise ValueError(f"--output {output} is not empty and holds no probe; choose another folder")
        return False
    stored = json.loads(path.read_text())
    changed = sorted(name for name in stored.keys() | settings.keys() if stored.get(name) != settings.get(name))
    if changed:
        raise ValueError(f"--output {output} holds a run with other settings ({', '.join(changed)}); choose another folder")
    return (output / METRICS_FILE).is_file()


def _shown(config: ProbeConfig, task: Task) -> dict[str, Any]:
    """Print the scores of the finished probe in `config.output`; returns the content of metrics.json."""
    metrics: dict[str, Any] = json.loads((config.output / METRICS_FILE).read_text())
    header, rows = probe_table(metrics)
    print(f"\n{task.title}, test scenes, embeddings of {metrics['encoder']}")
    print(tabulate(rows, header, colalign=("left", *["right"] * (len(header) - 1)), disable_numparse=True))
    print(f"\n{TITLES[metrics['probe']]}, the best on the validation windows")
    aligned = ("left", *["right"] * (len(TABLE_HEADER) - 1))
    print(tabulate(score_table(metrics["test"]), TABLE_HEADER, colalign=aligned, disable_numparse=True))
    if note := about_unlabelled_classes(metrics["test"]):
        print(note)
    print(f"report: {config.output / REPORT_FILE}")
    return metrics


def _number(value: float | None) -> float:
    """A score, -1 where it is not defined."""
    return -1.0 if value is None or value != value else value
