"""The report, parsed as a browser does: tables, pictures, and no links to other files."""

from __future__ import annotations

import base64
import io
import json
import shlex
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.json_files import without_nan
from finetune.report.run_context import RunContext, software_versions
from finetune.report.run_report import run_report
from finetune.scoring.bootstrap import with_intervals
from finetune.scoring.boundaries import boundary_counts, boundary_scores
from finetune.scoring.headline import headline, headline_interval
from finetune.scoring.metrics import scores
from finetune.scoring.objects import object_counts, object_scores
from finetune.task import load_task
from tests.support.season_scores import RICE, season_scores

TASK = load_task("paddy_rice")
NAMES = ["other", "paddy_rice"]


class Reader(HTMLParser):
    """A parser: tables as lists of rows, pictures as bytes, headings and notes as text; fails if a tag stays open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.pictures: list[bytes] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.unfolded: list[str] = []  # upper left cells of tables that are seen at once
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        assert "href" not in values
        if tag == "img":
            kind, _, data = str(values["src"]).partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append(base64.b64decode(data, validate=True))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "table" in self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += f"|{data}" if self.open[-1] == "small" else data
            if len(self.tables[-1]) == 1 and len(self.tables[-1][0]) == 1 and "details" not in self.open:
                self.unfolded.append(data)
        elif data.strip() and "style" not in self.open:
            self.texts.append(data)

    def table(self, corner: str) -> dict[str, dict[str, str]]:
        """Cells by row and column of the table with `corner` in its upper left."""
        header, *rows = next(table for table in self.tables if table[0][0] == corner)
        return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def run_metrics(scenes: int, target: str | None = "paddy_rice") -> dict[str, Any]:
    """What `metrics.json` holds after a run on `scenes` random test scenes."""
    rng = np.random.default_rng(0)
    labels = [np.kron(rng.integers(0, 2, (8, 8)), np.ones((5, 5), int)) for _ in range(scenes)]
    maps = [np.where(rng.random(label.shape) < 0.04, 1 - label, label) for label in labels]
    pairs = list(zip(labels, maps, strict=True))
    matrices = [np.bincount(2 * label.ravel() + found.ravel(), minlength=4).reshape(2, 2) for label, found in pairs]
    test = with_intervals(matrices, partial(scores, classes=NAMES), resamples=200)
    test["scenes"] = {f"scene {i}": headline(scores(matrix, NAMES), target)[1] for i, matrix in enumerate(matrices)}
    counts = [boundary_counts(label, found, 2) for label, found in pairs]
    test["boundaries"] = with_intervals(counts, partial(boundary_scores, classes=NAMES), resamples=200)
    counts = [object_counts(label, found, 1, 2) for label, found in pairs]
    test["objects"] = {"paddy_rice": with_intervals(counts, object_scores, resamples=200)}
    name, value = headline(test, target)
    history = [{"loss": 0.9, "mean_f1": float("nan")}, {"loss": 0.5, "mean_f1": 0.7}, {"loss": 0.4, "mean_f1": 0.6}]
    metrics = {"task": TASK.name, "encoder": "scratch", "test": test, "best_epoch": 2}
    metrics["score"] = {"name": name, "value": value, "interval": headline_interval(test, target)}
    return json.loads(json.dumps(without_nan(metrics | {"history": history, "validation": {}})))


def test_a_report_holds_what_the_metrics_hold(tmp_path: Path) -> None:
    metrics = run_metrics(scenes=4)
    test, intervals = metrics["test"], metrics["test"]["intervals"]
    picture = tmp_path / "map.png"
    Image.new("RGB", (3, 2), "#1f78b4").save(picture)
    path = tmp_path / "report.html"
    configuration = {"data": "/scenes/<a & b>", "task.frames": 16, "checkpoint": None}
    run_report(metrics, TASK, configuration, {'delta "2021"': picture}).write(path)
    found = Reader(path.read_text(encoding="utf-8"))

    def shown(value: float, ends: list[float]) -> str:
        return f"{100 * value:.2f}|{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"

    first = found.table("on the test scenes")
    assert list(first) == ["paddy rice F1", "mean F1", "mean IoU", "overall accuracy", "kappa × 100"]
    assert first["paddy rice F1"]["%"] == shown(metrics["score"]["value"], intervals["classes"]["paddy_rice"]["f1"])
    assert first["kappa × 100"]["%"] == shown(test["kappa"], intervals["kappa"])
    classes = found.table("class")
    for title, key in (("F1 %", "f1"), ("recall %", "recall"), ("IoU %", "iou"), ("accuracy %", "accuracy")):
        assert classes["paddy rice"][title] == shown(test["classes"]["paddy_rice"][key], intervals["classes"]["paddy_rice"][key])
    assert classes["all"]["precision %"] == shown(test["mean_precision"], intervals["mean_precision"])
    assert classes["other"]["labelled px"] == f"{test['classes']['other']['pixels']:,}"
    for tolerance in ("1 px", "2 px"):
        values = test["boundaries"][tolerance]["classes"]["other"]
        ends = test["boundaries"]["intervals"][tolerance]["classes"]["other"]
        row = found.table(f"within {tolerance}")["other"]
        assert row["precision %"] == shown(values["precision"], ends["precision"])
        assert row["mapped px"] == f"{values['predicted']:,}"
    objects = next(table for table in found.tables if "matched" in table[0])
    assert len({test["objects"]["paddy_rice"][key] for key in ("labelled", "predicted", "matched")}) == 3
    values, ends = test["objects"]["paddy_rice"], test["objects"]["paddy_rice"]["intervals"]
    assert objects[1][1] == shown(values["f1"], ends["f1"])
    assert objects[1][4:] == [f"{values[key]:,}" for key in ("labelled", "predicted", "matched")]
    counts = found.table("label, pixels")
    assert [[int(cell.replace(",", "")) for cell in counts[row].values()] for row in counts] == test["confusion"]
    assert found.table("scene")["scene 2"]["paddy rice F1 %"] == f"{100 * test['scenes']['scene 2']:.2f}"
    settings = found.table("setting")
    assert [row["value"] for row in settings.values()] == ["/scenes/<a & b>", "16", "null"]
    assert found.pictures[0] == picture.read_bytes()
    assert 'delta "2021"' in found.texts
    assert len(found.pictures) == 3  # map, confusion matrix, training curve
    assert all(Image.open(io.BytesIO(png)).width > 1 for png in found.pictures)
    assert any("of 4 scenes" in text and "95 % interval" in text for text in found.texts)
    assert set(tmp_path.iterdir()) == {path, picture}


def test_maps_come_first_then_the_season_and_tables_are_folded() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    pictures = {f"scene {number}": buffer.getvalue() for number in range(6)}
    season = season_scores(RICE, [None, 0.1, 0.9, 0.4, 0.7812, 0.8])
    page = run_report(run_metrics(2), TASK, {"seed": 1}, pictures, season=season)
    found = Reader(page.html())
    headings = [
        text for text in found.texts if text in ("Maps", "As the season goes on", "Scores", "Confusion matrix", "Training")
    ]
    assert headings == ["Maps", "As the season goes on", "Scores", "Confusion matrix", "Training"]
    assert found.unfolded == []
    assert len(found.tables) >= 8
    assert page.html().count("<details><summary>scene ") == 2  # the fifth and the sixth map
    assert found.texts.index("scene 5") < found.texts.index("Scores")


def test_a_report_says_what_the_run_is_and_how_to_use_it(tmp_path: Path) -> None:
    scenes = {"train": [f"s{number}" for number in range(20)], "validation": ["v"], "test": ["delta", "coast"]}
    context = RunContext(
        folder=tmp_path / "it's a run",
        data="s3://bucket/<scenes>",
        scenes=scenes,
        simulated=["delta", "s3"],
        versions={"agrifm": "1.2", "torch": "2.11"},
        date="2026-01-02",
    )
    found = Reader(run_report(run_metrics(2), TASK, context=context).html())
    assert "Partly simulated data: the images and labels of delta, s3 are not real." in found.texts
    assert {"s3://bucket/<scenes>", "delta, coast", "2026-01-02 by agrifm 1.2, torch 2.11"} <= set(found.texts)
    assert any(text.startswith("s0, s1, ") and text.endswith(" and 8 more") for text in found.texts)
    predict, view = (shlex.split(text) for text in found.texts if text.startswith("agrifm "))
    assert predict[:4] == ["agrifm", "predict", "--model", str(tmp_path / "it's a run")]
    assert view == ["agrifm", "view", str(tmp_path / "it's a run")]
    everything = [name for names in scenes.values() for name in names]
    assert replace(context, simulated=everything).about_simulated.startswith("Simulated data:")
    assert replace(context, simulated=[]).about_simulated == ""
    without = Reader(run_report(run_metrics(2), TASK, context=replace(context, scenes={}, simulated=[])).html())
    assert not any("simulated" in text.lower() for text in without.texts)
    assert not any(text.startswith("agrifm view") for text in without.texts)  # samples have no maps
    assert set(software_versions()) == {"agrifm", "torch"}


def test_equal_runs_give_equal_bytes() -> None:
    assert run_report(run_metrics(2), TASK).html() == run_report(run_metrics(2), TASK).html()


def test_one_scene_and_no_target() -> None:
    found = Reader(run_report(run_metrics(1, target=None), replace(TASK, target=None)).html())
    assert any("of 1 scene. There are no intervals" in text for text in found.texts)
    assert not any("|" in cell for table in found.tables for row in table for cell in row)
    assert list(found.table("on the test scenes"))[:2] == ["mean F1", "mean IoU"]
    # Scores without intervals, boundaries and objects, as a run of today writes them.
    metrics = run_metrics(1)
    for key in ("intervals", "bootstrap", "boundaries", "objects", "scenes"):
        del metrics["test"][key]
    plain = Reader(run_report(metrics | {"history": []}, TASK).html())
    assert [table[0][0] for table in plain.tables] == ["on the test scenes", "class", "label, pixels"]


def test_sections_of_ones_own_follow() -> None:
    page = run_report(run_metrics(1), TASK)
    page.heading("Learning curve")
    page.table(["labels", "F1 %"], [["1 %", "60.0\n± 2"]])
    page.picture(Figure(figsize=(2, 1)), "a plot")
    found = Reader(page.html())
    assert found.texts[-2:] == ["Learning curve", "a plot"]
    assert found.tables[-1] == [["labels", "F1 %"], ["1 %", "60.0|± 2"]]


def test_nothing_labelled_still_makes_a_report() -> None:
    test = with_intervals(np.zeros((2, 2, 2), dtype=int), partial(scores, classes=NAMES), resamples=20)
    score = {"name": "paddy rice F1", "value": None}
    metrics = without_nan({"encoder": "scratch", "score": score, "test": test, "best_epoch": 0, "history": []})
    found = Reader(run_report(metrics, TASK).html())
    assert set(found.table("class")["all"].values()) == {"-", "0"}
