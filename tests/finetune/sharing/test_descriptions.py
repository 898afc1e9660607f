"""The card and the STAC item of a trained model say what its run recorded, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pystac
import pytest
import rasterio
import yaml
from pystac.extensions.mlm import AssetGeneralMLMExtension, MLMExtension
from rasterio.warp import transform_bounds

from finetune.model.model_file import MODEL_FILE, load_model
from finetune.sharing.describing import describe_run
from finetune.sharing.run_card import run_card
from finetune.sharing.run_item import run_item
from finetune.sharing.trained_run import TrainedRun, trained_run
from tests.support.finetune_runs import SMALL_ENCODER, run
from tests.support.hub_models import write_model
from tests.support.rice_scenes import write_split_scenes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def output(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "rice"
    options: dict[str, Any] = {"decoder.channels": 8, "training.epochs": 2, "training.batch_size": 4, "maps": False}
    run(task="paddy_rice", data=scenes, output=folder, encoder=SMALL_ENCODER, **{"override.frames": 4}, **options)
    return folder


@pytest.fixture(scope="module")
def record(output: Path) -> TrainedRun:
    return trained_run(output)


def sections(card: str) -> dict[str, str]:
    """The text below each heading of a card."""
    parts = card.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without the lines below their headers."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def metadata(card: str) -> dict[str, Any]:
    """The block at the beginning of a card."""
    values: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return values


def metrics_of(output: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return values


def test_a_run_leaves_both_beside_its_model(output: Path, record: TrainedRun) -> None:
    assert (output / "README.md").read_text() == run_card(record)
    assert json.loads((output / "stac_item.json").read_text()) == json.loads(json.dumps(run_item(record)))
    before = (output / "README.md").read_bytes()
    describe_run(output, json.loads((output / "run.json").read_text()), metrics_of(output))
    assert (output / "README.md").read_bytes() == before


def test_the_hub_reads_the_metadata(output: Path, record: TrainedRun) -> None:
    """huggingface_hub itself parses the block, and finds the scores of metrics.json."""
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(run_card(record, "cc-by-4.0", ["me/rice"]), ignore_metadata_errors=False)
    data, test = card.data, metrics_of(output)["test"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "agrifm-pretrain", "image-segmentation")
    assert data.datasets == ["me/rice"]
    assert {"landsat", "modis", "crop-mapping"} <= set(data.tags)
    found = {result.metric_name: result.metric_value for result in data.eval_results}
    assert found == {
        name.replace("_", " "): pytest.approx(test[name], abs=1e-6) for name in ("mean_f1", "overall_accuracy", "mean_iou")
    }


def test_nobody_invents_a_licence(record: TrainedRun) -> None:
    card = run_card(record)
    assert "license" not in metadata(card)
    assert "datasets" not in metadata(card)
    assert sections(card)["Licence"].strip() == "Not stated. Ask its authors before you use it."
    assert "license" not in run_item(record)["properties"]


def test_the_scores_are_those_of_metrics_json(output: Path, record: TrainedRun) -> None:
    test = metrics_of(output)["test"]
    found = {row[0]: row for row in rows(sections(run_card(record))["Scores"])}
    for name, values in test["classes"].items():
        shown = [values[key] for key in ("f1", "precision", "recall")]
        f1, precision, recall = ("-" if value is None else f"{100 * value:.2f}" for value in shown)
        assert [found[name][1], found[name][2], found[name][3]] == [f1, precision, recall]
        assert found[name][6] == f"{values['pixels']:,}"
    assert "There are no intervals: they need more than one test scene." in run_card(record)


def test_intervals_are_shown_where_there_are_some(record: TrainedRun) -> None:
    metrics = json.loads(json.dumps(dict(record.metrics)))
    classes = {name: {"f1": [0.1, 0.2], "iou": [0.05, 0.15]} for name in metrics["test"]["classes"]}
    metrics["test"] |= {"intervals": {"classes": classes, "mean_f1": [0.3, 0.4], "mean_iou": [0.2, 0.3]}}
    metrics["test"] |= {"bootstrap": {"scenes": 3, "level": 0.95, "resamples": 1000}, "scenes": {"a": 0.1, "b": 0.2, "c": 0.3}}
    metrics["score"]["interval"] = [0.1, 0.2]
    card = run_card(replace(record, metrics=metrics))
    assert "(10.0 to 20.0)" in card
    assert "95 % intervals by the bootstrap over 3 test scenes" in card
    assert "Intervals over 3 test scenes are too narrow." in card


def test_training_data_are_those_of_the_run(output: Path, scenes: Path, record: TrainedRun) -> None:
    text = sections(run_card(record))
    found = {row[0]: row[1:] for row in rows(text["Training data"])}
    training = metrics_of(output)["training"]
    assert found["windows"] == [f"{training['windows']} of {training['of_windows']}"]
    assert found["scenes"] == ["1"]
    assert found["simulated scenes"] == ["0"]
    assert found["seasons end in"] == ["2021 (1 labels)"]
    assert found["paddy_rice"] == [f"{training['pixels']['paddy_rice']:,}"]
    with rasterio.open(scenes / "a" / "crop_type.tif") as label:
        box = transform_bounds(label.crs, "EPSG:4326", *label.bounds)
    assert [float(cell) for cell in found["a"]] == pytest.approx(box, abs=2e-4)
    settings = {row[0]: row[1] for row in rows(text["Training"])}
    assert settings["initial weights"] == "random"
    assert settings["steps"] == str(training["steps"])
    assert "sha256 of the checkpoint" not in settings


def test_input_and_classes_are_those_of_the_recipe(output: Path, record: TrainedRun) -> None:
    _, recipe = load_model(output)
    text = sections(run_card(record))
    bands = [
        row
        for row in rows(text["Input"])
        if row[0] in recipe.sensors and len(row) == 6 and row[1] != recipe.sensors[row[0]].title
    ]
    assert [(row[0], row[1]) for row in bands] == [(s, band) for s in recipe.task.sources for band in recipe.sensors[s].bands]
    means = [mean for source in recipe.task.sources for mean in recipe.normalization[source]["mean"]]
    assert [float(row[2]) for row in bands] == pytest.approx(means, rel=1e-5)
    assert rows(text["What it maps"])[1:] == [["0", "other", "all others"], ["1", "paddy_rice", "paddy_rice"]]
    assert hashlib.sha256((output / MODEL_FILE).read_bytes()).hexdigest() in text["Use"]


def test_no_path_of_this_machine_is_told(output: Path, scenes: Path, record: TrainedRun) -> None:
    both = run_card(record) + json.dumps(run_item(record))
    assert str(scenes) not in both
    assert str(output.parent) not in both


def test_simulated_data_are_named(record: TrainedRun) -> None:
    simulated = replace(record, metrics=record.metrics | {"training_origin": record.origin | {"simulated_scenes": 1}})
    card = run_card(simulated)
    assert "**Trained on simulated data** (1 of 1 training scenes): its scores say nothing about real land." in card
    assert "simulated-data" in metadata(card)["tags"]
    assert "Trained on simulated data." in run_item(simulated)["properties"]["description"]
    assert "imulated data" not in run_card(record)


def test_a_simulated_scene_is_recognised(tmp_path: Path) -> None:
    scenes = write_split_scenes(tmp_path / "scenes")
    (scenes / "a" / "simulation.json").write_text("{}")
    options: dict[str, Any] = {"override.frames": 4, "override.sources": ["landsat"], "maps": False}
    run(task="paddy_rice", data=scenes, output=tmp_path / "run", encoder="random_forest", **options)
    assert metrics_of(tmp_path / "run")["training_origin"]["simulated_scenes"] == 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "the baseline random_forest" in card
    assert "Trained on simulated data" in card


def test_what_was_not_recorded_is_said_to_be_so(record: TrainedRun, tmp_path: Path) -> None:
    earlier = replace(record, metrics={name: value for name, value in record.metrics.items() if name != "training_origin"})
    found = {row[0]: row[1] for row in rows(sections(run_card(earlier))["Training data"])}
    assert found["seasons end in"] == found["scenes"] == "not recorded"
    assert "Whether the training data are real or simulated is not recorded." in run_card(earlier)
    assert run_item(earlier)["geometry"] is None
    write_model(tmp_path / MODEL_FILE)
    alone = trained_run(tmp_path / MODEL_FILE)
    card = run_card(alone)
    assert "No scores are recorded" in card
    assert "model-index" not in metadata(card)
    run_item(alone)


def test_the_item_is_what_pystac_reads(output: Path, record: TrainedRun) -> None:
    values = json.loads((output / "stac_item.json").read_text())
    item = pystac.Item.from_dict(values)
    assert json.loads(json.dumps(item.to_dict(include_self_link=False))) == values
    model = MLMExtension.ext(item)
    _, recipe = load_model(output)
    assert (model.mlm_name, model.framework, model.pretrained) == ("paddy_rice", "PyTorch", False)
    assert model.total_parameters == record.parameters > 0
    assert [source.name for source in model.input] == list(recipe.task.sources)
    known = [band["name"] for band in values["properties"]["bands"]]
    assert [band for source in model.input for band in source.bands] == known
    assert len(set(known)) == len(known)
    for source in model.input:
        scaling = source.properties["value_scaling"]
        assert [each["mean"] for each in scaling] == recipe.normalization[source.name]["mean"]
        assert [each["stddev"] for each in scaling] == recipe.normalization[source.name]["std"]
        assert source.input.shape == [-1, recipe.task.frames, len(source.bands), -1, -1]
    (result,) = model.output
    assert [(c.value, c.name) for c in result.classes or []] == [(0, "other"), (1, "paddy_rice")]
    weights = item.assets["weights"]
    assert AssetGeneralMLMExtension.ext(weights).artifact_type == "safetensors.torch.save"
    content = (output / MODEL_FILE).read_bytes()
    assert weights.extra_fields["file:size"] == len(content)
    assert weights.extra_fields["file:checksum"] == f"1220{hashlib.sha256(content).hexdigest()}"
    assert all((output / asset.href).is_file() for asset in item.assets.values())


def test_the_item_obeys_the_schema_of_stac(record: TrainedRun) -> None:
    """That of STAC items, which pystac holds; those of extensions lie on a server."""
    pytest.importorskip("jsonschema")
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    without_place = replace(record, metrics={name: v for name, v in record.metrics.items() if name != "training_origin"})
    for one in (record, without_place):
        values = json.loads(json.dumps(run_item(one)))
        JsonSchemaSTACValidator().validate_core(values, pystac.STACObjectType.ITEM, values["stac_version"])
    del values["properties"]["start_datetime"]
    with pytest.raises(pystac.STACValidationError):
        JsonSchemaSTACValidator().validate_core(values, pystac.STACObjectType.ITEM, values["stac_version"])


def test_place_and_time_of_the_item_are_those_of_the_training_data(scenes: Path, record: TrainedRun) -> None:
    item = pystac.Item.from_dict(run_item(record))
    with rasterio.open(scenes / "a" / "crop_type.tif") as label:
        box = transform_bounds(label.crs, "EPSG:4326", *label.bounds)
    assert item.bbox == pytest.approx(box, abs=2e-4)
    start, end = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    assert start is not None
    assert end is not None
    assert (start.date(), end.date()) == (date(2021, 4, 1), date(2021, 10, 31))


def test_an_unfinished_run_has_no_card(output: Path, tmp_path: Path) -> None:
    for name in ("run.json", MODEL_FILE):
        (tmp_path / name).write_bytes((output / name).read_bytes())
    with pytest.raises(ValueError, match=r"holds a run that is not finished; start its finetune/run\.py again"):
        trained_run(tmp_path)


@pytest.mark.parametrize("name", ["a", "ab", "9 crops", "Reis & Mais", "水稻", "_x_"])
def test_any_name_of_a_task_makes_a_name_of_a_model(record: TrainedRun, name: str) -> None:
    """The pattern is that of the extension's schema."""
    task = replace(record.recipe.task, name=name)
    item = run_item(replace(record, recipe=replace(record.recipe, task=task)))
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", item["properties"]["mlm:name"])


def test_text_of_users_breaks_no_table(record: TrainedRun) -> None:
    classes = (record.recipe.task.classes[0], replace(record.recipe.task.classes[1], labels=("a|b\n# c",)))
    task = replace(record.recipe.task, title="Rice\n---\n# x", classes=classes)
    card = run_card(replace(record, recipe=replace(record.recipe, task=task)))
    assert "# Rice --- # x\n" in card
    assert "a\\|b # c" in card
