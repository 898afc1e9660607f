"""The document of a comparison."""

from __future__ import annotations

import yaml

from finetune.comparison.markdown_document import NO_FOREST, PUBLISHED, joined_document, markdown_document
from finetune.comparison.seed_statistics import TaskComparison
from finetune.task import TASKS
from tests.support.comparison_outcomes import SCORES, outcomes, rows_of, simulated_outcomes


def test_document_shows_means_labels_differences_and_what_is_missing() -> None:
    found = outcomes(SCORES)
    document = markdown_document([TaskComparison(found)], found, ["comparison.png"], "comparison_differences.png")
    rows = rows_of(document)
    assert rows["pretrained"] == ["55.00 ± 7.07 [2 of 3]", "83.67 ± 2.52"]
    assert rows["from scratch"] == ["missing", "80.67 ± 2.08"]
    assert rows["minus from scratch at 5 %"] == ["missing", "-", "-"]
    assert rows["minus from scratch at 100 %"] == ["+3.00", "-3.57 to +9.57", "-"]
    assert rows["minus U-Net at 5 %"] == ["+20.00 [2 of 3]", "-107.06 to +147.06", "-"]  # Student's t: 12.7 standard errors
    assert rows["*training windows*"] == ["3 of 60", "3 of 60"]
    assert rows["*labelled pixels*"] == ["1,234", "1,234"]
    assert rows["AgriFM"] == ["5 %", "74.27"]  # the last of the published figures of cropland
    assert "not comparable: other data, other size" in document
    assert "## Missing: 4 of 18 runs" in document
    assert document.count("disk full") == 4
    assert "](comparison_differences.png)" in document
    assert "![Differences by fraction" not in document
    assert "simulated" not in document
    found = simulated_outcomes(SCORES)
    document = markdown_document([TaskComparison(found)], found, ["comparison.png", "learning.png"], "differences.png")
    assert "**The data are simulated.**" in document
    places = [document.index(f"]({name})") for name in ("differences.png", "comparison.png", "learning.png")]
    assert places == sorted(places)


def test_document_without_the_forest_says_so_first() -> None:
    found = outcomes(SCORES)
    assert markdown_document([TaskComparison(found)], found, "a.png", "b.png").splitlines()[2] == NO_FOREST
    found = outcomes(SCORES | {("random_forest", fraction): [0.8] * 3 for fraction in (0.05, 1.0)})
    document = markdown_document([TaskComparison(found)], found, "a.png", "b.png")
    assert "lacks the random forest" not in document
    assert rows_of(document)["random forest"] == ["80.00 ± 0.00", "80.00 ± 0.00"]


def test_trainings_that_have_not_converged_are_named() -> None:
    found = outcomes({("pretrained", 1.0): [0.9, 0.9], ("unet", 1.0): [0.8, 0.8]})
    for outcome, last in zip(found, (0.5, 0.6, 0.5, 0.5), strict=True):
        assert outcome.metrics is not None
        outcome.metrics["history"] = [{"mean_f1": 0.4}, {"mean_f1": 0.5}, {"mean_f1": last}]
    document = markdown_document([TaskComparison(found)], found, "a.png", "b.png")
    rows = rows_of(document)
    assert rows["pretrained"] == ["90.00 ± 0.00 [converged: 1 of 2]"]
    assert rows["U-Net"] == ["80.00 ± 0.00"]
    assert (rows["Cropland, pretrained"], rows["Cropland, U-Net"]) == (["1 of 2"], ["2 of 2"])


def test_joined_document_has_the_settings_side_by_side() -> None:
    settings = {}
    for title, shift in (("same", 0.0), ("held out", 0.2)):
        scores: dict[tuple[str, float], list[float | None]] = {
            ("pretrained.map", 0.05): [0.8 - shift, 0.81 - shift, 0.8 - shift],
            ("random_forest", 0.05): [0.7, 0.71, 0.7],
        }
        found = outcomes(scores) + outcomes(scores, "lulc")
        settings[title] = ([TaskComparison(found[:6]), TaskComparison(found[6:])], found)
    document = joined_document(settings, "differences.png")
    header = next(line for line in document.splitlines() if "same, 5 %" in line)
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["labels", "same, 5 %", "held out, 5 %"]
    expected = ["+10.0 (2 above, 0 below of 2)", "-10.0 (0 above, 2 below of 2)"]
    assert rows_of(document)["minus random forest"] == expected
    assert [line for line in document.splitlines() if line.startswith("## ")] == ["## same", "## held out"]
    assert "lacks the random forest" not in document


def test_published_figures_are_of_known_tasks() -> None:
    assert set(yaml.safe_load(PUBLISHED.read_text())) <= {path.stem for path in TASKS.glob("*.yaml")}
