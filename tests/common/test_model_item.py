"""The bounding box of a model's STAC item."""

from __future__ import annotations

import pytest

from common.model_item import Box, _bounding_box, _polygons


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(4, 50, 5, 51), (7, 48, 9, 49)], [4, 48, 9, 51]),
        ([(179, -17, -179, -16)], [179, -17, -179, -16]),
        ([(177, -18, 178, -17), (-178, -16, -177, -15)], [177, -18, -177, -15]),
        ([(-180, 0, 180, 10)], [-180, 0, 180, 10]),
        ([(-5, 50, 10, 51), (2, 49, 5, 50)], [-5, 49, 10, 51]),
        ([(-10, 0, 0, 1), (170, 0, 180, 1)], [-10, 0, 180, 1]),
    ],
)
def test_the_smallest_box_around_boxes(boxes: list[Box], expected: list[float]) -> None:
    assert _bounding_box(boxes) == pytest.approx(expected)
    for order in (boxes, boxes[::-1]):
        assert _bounding_box(order) == pytest.approx(expected)


def test_boxes_that_overlap_are_one_valid_ground() -> None:
    ground = _polygons([(4, 50, 5, 51), (4.5, 50, 5.5, 51), (179, 0, -179, 1)])
    assert ground.is_valid
    assert ground.area == pytest.approx(1.5 + 2)
