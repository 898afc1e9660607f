"""The document of a comparison."""

from __future__ import annotations

import yaml

from finetune.comparison.markdown_document import PUBLISHED, markdown_document
from finetune.comparison.seed_statistics import TaskComparison
from finetune.task import TASKS
from tests.support.comparison_outcomes import SCORES, outcomes, rows_of


def test_document_shows_means_labels_differences_and_what_is_missing() -> None:
    document = markdown_document([TaskComparison(outcomes(SCORES))], outcomes(SCORES), "comparison.png")
    rows = rows_of(document)
    assert rows["pretrained"] == ["55.00 ± 7.07 [2 of 3]", "83.67 ± 2.52"]
    assert rows["from scratch"] == ["missing", "80.67 ± 2.08"]
    assert rows["minus from scratch"] == ["missing", "+3.00 (1.53)"]
    assert rows["minus U-Net"] == ["+20.00 (10.00) [2 of 3]", "-6.33 (1.45)"]
    assert rows["*training windows*"] == ["3 of 60", "3 of 60"]
    assert rows["*labelled pixels*"] == ["1,234", "1,234"]
    assert rows["AgriFM"] == ["5 %", "74.27"]  # the last of the published figures of cropland
    assert "not comparable: other data, other size" in document
    assert "## Missing: 4 of 18 runs" in document
    assert document.count("disk full") == 4
    assert "from 4.3 standard errors" in document  # Student's t with two degrees of freedom, of any table


def test_published_figures_are_of_known_tasks() -> None:
    assert set(yaml.safe_load(PUBLISHED.read_text())) <= {path.stem for path in TASKS.glob("*.yaml")}
