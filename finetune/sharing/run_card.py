"""The model card of a trained model. It says what the model's file, run.json and metrics.json say, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.hub import HubPath, hub_path, is_hub_url
from common.model_card import LIBRARY, ModelCard
from common.model_item import ITEM_FILE, library_version
from finetune.mapping.cog import NO_DATA
from finetune.model.model_file import MODEL_FILE
from finetune.model.recipe import SCRATCH
from finetune.run_folder import METRICS_FILE
from finetune.scoring.score_text import TABLE_HEADER, percent, percent_interval, readable_name, score_table
from finetune.sharing.trained_run import TrainedRun

NOT_RECORDED = "not recorded"
# Names of the hub's metrics by those of metrics.json.
_METRICS = {"mean_f1": "f1", "overall_accuracy": "accuracy", "mean_iou": "mean_iou"}
_FEW_SCENES = 10  # below, intervals over scenes are known to be too narrow


def run_card(run: TrainedRun, license: str | None = None, datasets: Sequence[str] = (), place: HubPath | None = None) -> str:
    """The card of a trained model as Markdown with Hugging Face's metadata.

    Args:
        run: the model and its record.
        license: identifier of the licence under which the model is given away; None where nobody has stated one.
        datasets: names of data sets at the hub that it was trained on.
        place: where it lies at the hub; None for a model on this machine.
    """
    task = run.recipe.task
    card = ModelCard(_metadata(run, license, datasets), task.title)
    if run.is_simulated:
        scenes = f"{run.origin['simulated_scenes']} of {run.origin['scenes']} training scenes"
        card.paragraph(f"**Trained on simulated data** ({scenes}): its scores say nothing about real land.")
    names = [readable_name(c.name) for c in task.classes]
    kind = "numbers" if run.is_forest else "parameters"
    card.paragraph(
        f"A model that maps {', '.join(names[:-1])} and {names[-1]} from series of {' and '.join(task.sources)} images: "
        f"{_architecture(run)}, {run.parameters / 1e6:.2f} M {kind}. Written by {LIBRARY} {library_version()}."
    )
    _add_map(card, run)
    _add_input(card, run)
    _add_training(card, run)
    _add_scores(card, run)
    card.heading("Limits")
    card.bullets(_limits(run))
    _add_use(card, run, place)
    card.heading("Licence")
    card.paragraph(license or "Not stated. Ask its authors before you use it.")
    return card.text()


def _metadata(run: TrainedRun, license: str | None, datasets: Sequence[str]) -> dict[str, Any]:
    """The block of metadata for the hub."""
    test = run.metrics.get("test") or {}
    scores = [(name, kind, test[name]) for name, kind in _METRICS.items() if test.get(name) is not None]
    values = [{"type": kind, "name": readable_name(name), "value": round(float(value), 6)} for name, kind, value in scores]
    name = run.recipe.task.name
    result = {
        "task": {"type": "image-segmentation"},
        "dataset": {"name": f"test split of {name}", "type": name, "split": "test"},
        "metrics": values,
    }
    origin = run.recipe.origin
    return {
        "license": license,
        "library_name": LIBRARY,
        "pipeline_tag": "image-segmentation",
        "tags": _tags(run),
        "datasets": list(datasets),
        "metrics": [kind for _, kind, _ in scores],
        "base_model": hub_path(origin).repository if is_hub_url(origin) else None,
        "model-index": [{"name": name, "results": [result]}] if values else None,
    }


def _tags(run: TrainedRun) -> list[str]:
    simulated = ["simulated-data"] if run.is_simulated else []
    return ["earth-observation", "remote-sensing", "agriculture", "crop-mapping", *run.recipe.task.sources, *simulated]


def _architecture(run: TrainedRun) -> str:
    recipe = run.recipe
    if isinstance(recipe.encoder, str):
        return f"the baseline {recipe.encoder}"
    return f"the AgriFM encoder with the {recipe.decoder} decoder"


def _add_map(card: ModelCard, run: TrainedRun) -> None:
    task = run.recipe.task
    card.heading("What it maps")
    card.table(
        ["value", "class", "labels"],
        [[index, c.name, ", ".join(c.labels) or "all others"] for index, c in enumerate(task.classes)],
    )
    card.paragraph(
        f"A map is a GeoTIFF of these values, {NO_DATA} where there is no data, with pixels of {run.recipe.pixel:g} units of the "
        "scene's CRS."
    )


def _add_input(card: ModelCard, run: TrainedRun) -> None:
    recipe, task = run.recipe, run.recipe.task
    card.heading("Input")
    sensors = [recipe.sensors[source] for source in task.sources]
    card.table(
        ["source", "product", "bands", "pixel, m", "stored as", "reflectance"],
        [[s.name, s.title, ", ".join(s.bands), f"{s.gsd_m:g}", s.dtype, f"number × {s.scale:g}"] for s in sensors],
    )
    first, last = task.season
    what = "the clearest image of each" if task.compositing == "image" else "the clear pixels of each"
    card.paragraph(
        f"Season {first} to {last} (month-day), in {task.frames} equal periods; the model sees {what}, and zeros where nothing "
        f"is clear. Windows have {task.window_px} x {task.window_px} pixels of the map. Numbers have no additive offset and are "
        "normalised as (number − mean) / standard deviation; numbers beyond the limits, where there are some, count as these."
    )
    rows = []
    for source in task.sources:
        statistics = recipe.normalization[source]
        for index, band in enumerate(recipe.sensors[source].bands):
            cells = [f"{statistics[name][index]:.6g}" if name in statistics else "" for name in ("mean", "std", "low", "high")]
            rows.append([source, band, *cells])
    card.table(["source", "band", "mean", "standard deviation", "lower limit", "upper limit"], rows)
    upsampled = {source: times for source, times in task.upsample.items() if times != 1}
    if upsampled:
        repeated = ", ".join(f"{source} {times} times" for source, times in upsampled.items())
        card.paragraph(f"Pixels are repeated along rows and columns: {repeated}.")


def _add_training(card: ModelCard, run: TrainedRun) -> None:
    settings, origin, training = run.settings, run.origin, run.metrics.get("training") or {}
    card.heading("Training data")
    years = ", ".join(f"{year} ({count} labels)" for year, count in origin.get("years", {}).items())
    rows = [
        ["windows", _windows(training)],
        ["scenes", origin.get("scenes", NOT_RECORDED)],
        ["simulated scenes", NOT_RECORDED if origin.get("simulated_scenes") is None else origin["simulated_scenes"]],
        ["samples", origin["samples"]] if "samples" in origin else None,
        ["seasons end in", years or NOT_RECORDED],
        ["checksum of labels and descriptions", settings.get("data_sha256", NOT_RECORDED)],
    ]
    card.table(["training data", ""], [row for row in rows if row is not None])
    if origin.get("regions"):
        boxes = [[name, *(f"{degrees:g}" for degrees in box)] if box else [name, "", "", "", ""] for name, box in _regions(run)]
        card.table(["region", "west", "south", "east", "north"], boxes)
    if training.get("pixels"):
        card.table(["class", "labelled training pixels"], [[name, f"{count:,}"] for name, count in training["pixels"].items()])
    card.heading("Training")
    card.table(["setting", "value"], _training_rows(run))


def _regions(run: TrainedRun) -> list[tuple[str, list[float] | None]]:
    return list(run.origin.get("regions", {}).items())


def _windows(training: Any) -> str:
    if "windows" not in training:
        return NOT_RECORDED
    return f"{training['windows']:,} of {training['of_windows']:,}"


def _training_rows(run: TrainedRun) -> list[list[Any]]:
    """What is recorded of the training, as rows of a table."""
    settings, metrics = run.settings, run.metrics
    training = metrics.get("training") or {}
    named = {
        "initial weights": _initial_weights(run),
        "sha256 of the checkpoint": settings.get("checkpoint"),
        "what of the encoder learned": None if isinstance(run.recipe.encoder, str) else settings.get("tuning.mode"),
        "steps": training.get("steps"),
        "batch size": None if run.is_forest else settings.get("batch_size"),
        "peak learning rate": None if run.is_forest else settings.get("learning_rate"),
        "share of the labels": settings.get("label_fraction"),
        "seed": settings.get("seed"),
        "best epoch": None if run.is_forest else metrics.get("best_epoch"),
        "chosen by": None if run.is_forest else metrics.get("best_epoch_by"),
    }
    return [[name, value] for name, value in named.items() if value is not None]


def _initial_weights(run: TrainedRun) -> str:
    origin = run.recipe.origin
    if origin == SCRATCH:
        return "random"
    return origin if is_hub_url(origin) else "a checkpoint on the author's machine"


def _add_scores(card: ModelCard, run: TrainedRun) -> None:
    test, score = run.metrics.get("test"), run.metrics.get("score")
    card.heading("Scores")
    if not test or not score:
        card.paragraph(f"No scores are recorded: there is no {METRICS_FILE} beside the model.")
        return
    interval = percent_interval(score.get("interval"))
    shown = f"{percent(score['value'])} %{f' ({interval})' if interval else ''}"
    card.paragraph(f"{score['name']} on the test split: {shown}.")
    card.table(TABLE_HEADER, score_table(test))
    about = test.get("bootstrap")
    if about is None or test.get("intervals") is None:
        card.paragraph("There are no intervals: they need more than one test scene.")
    else:
        card.paragraph(
            f"In brackets: {100 * about['level']:g} % intervals by the bootstrap over {about['scenes']} test scenes. They say "
            "how scores would differ with other scenes like these, not with another training."
        )


def _limits(run: TrainedRun) -> list[str]:
    """What the record says of where the model cannot be trusted."""
    task, metrics = run.recipe.task, run.metrics
    training = metrics.get("training") or {}
    unseen = [name for name, count in (training.get("pixels") or {}).items() if count == 0]
    scenes = (metrics.get("test") or {}).get("scenes") or {}
    lines = [
        "Elsewhere, in other years or in other climates than those of the training data the scores need not hold.",
        f"Scores are of one training run (seed {run.settings.get('seed', NOT_RECORDED)}); other seeds give other scores.",
    ]
    if run.is_simulated:
        lines.append("It was trained on simulated images; real ones differ in ways that no simulation has.")
    if run.origin.get("simulated_scenes") is None:
        lines.append("Whether the training data are real or simulated is not recorded.")
    if 1 < len(scenes) < _FEW_SCENES:
        lines.append(f"Intervals over {len(scenes)} test scenes are too narrow.")
    if unseen:
        lines.append(f"Classes without a training pixel, which it cannot map: {', '.join(unseen)}.")
    if task.missing_sources == "allow":
        lines.append("It maps scenes that lack some of its sources, too, with zeros in their place.")
    else:
        lines.append(f"A scene must have every source: {', '.join(task.sources)}.")
    return lines


def _add_use(card: ModelCard, run: TrainedRun, place: HubPath | None) -> None:
    card.heading("Use")
    model = "MODEL" if place is None else str(place)
    where = "MODEL is the folder of this file. " if place is None else ""
    card.paragraph(f"{where}A scene is a folder with a `scene.yaml`; see the documentation of {LIBRARY}.")
    card.code(f"agrifm predict --model {model} --input SCENE --output map.tif")
    card.paragraph(
        f"`{MODEL_FILE}` (sha256 {run.sha256}) holds weights, task, sensors and normalisation; `{ITEM_FILE}` describes the model "
        "as a STAC item with the Machine Learning Model extension."
    )
