"""Augmentation: the value of every pixel is its position, so tests see that pixels, dates and label move together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from finetune.data.augmentation import Augmentation, augment, crop_step
from finetune.data.image_stack import ImageStack
from finetune.data.labelled_window import LabelledWindow
from finetune.data.season import Season

SIDE, FACTOR, IMAGES = 16, 4, 9
PLACES = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
COARSE = np.arange((SIDE // FACTOR) ** 2).reshape(SIDE // FACTOR, -1)
FINE_OF = PLACES // SIDE // FACTOR * (SIDE // FACTOR) + PLACES % SIDE // FACTOR  # the coarse pixel around each fine one


def marked() -> LabelledWindow:
    """A window whose label is the number of each pixel; pixels are 10 times this number plus the number of the image, its day."""
    stacks, seasons = {}, {}
    for source, places in (("landsat", PLACES), ("modis", COARSE)):
        numbers = np.arange(IMAGES)[:, None, None]
        pixels = np.repeat((places * 10 + numbers)[:, None], 3, axis=1).astype(np.int16)
        stacks[source] = ImageStack(pixels=pixels, valid=(places + numbers) % 3 > 0)
        seasons[source] = Season(times=np.arange(IMAGES), days=np.arange(IMAGES) + 0.5, length=IMAGES, periods=3)
    return LabelledWindow(name="w", stacks=stacks, seasons=seasons, label=PLACES.copy(), year=2021)


def assert_together(window: LabelledWindow) -> None:
    """Assert that label, fine and coarse pixels, validity and dates still belong together."""
    shown = {"landsat": window.label, "modis": FINE_OF.ravel()[window.label][::FACTOR, ::FACTOR]}
    for source, places in shown.items():
        stack, season = window.stacks[source], window.seasons[source]
        numbers = (season.days - 0.5).astype(int)
        np.testing.assert_array_equal(season.times, numbers)
        assert stack.pixels.shape == (len(numbers), 3, *places.shape)
        np.testing.assert_array_equal(stack.pixels[:, 2], places * 10 + numbers[:, None, None])
        np.testing.assert_array_equal(stack.valid, (places + numbers[:, None, None]) % 3 > 0)


def labels_seen(how: Augmentation, draws: int = 200) -> Counter[bytes]:
    window, seen = marked(), Counter()
    for seed in range(draws):
        result = augment(window, how, np.random.default_rng(seed))
        assert_together(result)
        seen[np.ascontiguousarray(result.label).tobytes()] += 1
    assert_together(window)  # what went in is as it was
    np.testing.assert_array_equal(window.label, PLACES)
    return seen


@pytest.mark.parametrize(
    ("rotations", "flips", "expected"),
    [
        (False, False, [PLACES]),
        (True, False, [PLACES, PLACES.T[::-1], PLACES[::-1, ::-1], PLACES.T[:, ::-1]]),
        (False, True, [PLACES, PLACES[::-1], PLACES[:, ::-1], PLACES[::-1, ::-1]]),
        (True, True, [p for q in (PLACES, PLACES.T) for p in (q, q[::-1], q[:, ::-1], q[::-1, ::-1])]),
    ],
)
def test_turns_and_flips_are_those_asked_for_and_equally_likely(rotations: bool, flips: bool, expected: list) -> None:
    seen = labels_seen(Augmentation(rotations=rotations, flips=flips))
    assert set(seen) == {np.ascontiguousarray(e).tobytes() for e in expected}
    assert min(seen.values()) > 0.5 * 200 / len(expected)


def test_crops_are_everywhere_and_on_whole_pixels_of_every_source() -> None:
    assert crop_step(marked()) == FACTOR
    seen = labels_seen(Augmentation(crop_px=8, rotations=False, flips=False))
    corners = range(0, SIDE - 8 + 1, FACTOR)
    expected = {np.ascontiguousarray(PLACES[r : r + 8, c : c + 8]).tobytes() for r in corners for c in corners}
    assert set(seen) == expected
    labels_seen(Augmentation(crop_px=4))
    for wrong in (6, 20, 0):
        with pytest.raises(ValueError, match=f"crop_px is {wrong}; expected a multiple of 4, .* at most 16"):
            Augmentation(crop_px=wrong).check_crop(FACTOR, 16)


def test_images_are_dropped_as_often_as_said_with_their_dates() -> None:
    kept = []
    for seed in range(300):
        result = augment(marked(), Augmentation(drop_images=0.3), np.random.default_rng(seed))
        assert_together(result)
        kept.append(len(result.stacks["landsat"].valid))
    assert np.mean(kept) == pytest.approx(0.7 * IMAGES, rel=0.05)
    assert len(set(kept)) > 3


def test_a_source_is_dropped_whole_and_one_always_stays() -> None:
    there: Counter[tuple[bool, ...]] = Counter()
    for seed in range(300):
        result = augment(marked(), Augmentation(drop_sources=0.5), np.random.default_rng(seed))
        assert_together(result)
        there[tuple(len(stack.valid) > 0 for stack in result.stacks.values())] += 1
    # One stays for certain, the other in half of the cases.
    assert (False, False) not in there
    assert there[True, True] == pytest.approx(150, abs=30)
    assert there[True, False] == pytest.approx(75, abs=25)
    assert there[False, True] == pytest.approx(75, abs=25)


def test_the_season_of_all_sources_is_moved_alike() -> None:
    shifts = []
    for seed in range(100):
        result = augment(marked(), Augmentation(shift_days=2.0), np.random.default_rng(seed))
        shift = result.seasons["landsat"].shift
        assert shift == result.seasons["modis"].shift
        shifts.append(shift)
        # A day later than it was: image n lies in period floor((n + 0.5 + shift) / 3).
        stack, season = result.stacks["landsat"], result.seasons["landsat"]
        for period, chosen in enumerate(season.choose(np.ones_like(stack.valid))):
            inside = [n for n in range(IMAGES) if period * 3 <= n + 0.5 + shift < period * 3 + 3]
            assert chosen in inside if inside else chosen == -1
    assert -2 <= min(shifts) < -1.5
    assert 1.5 < max(shifts) <= 2


def test_settings_do_not_change_what_else_is_drawn() -> None:
    one = augment(marked(), Augmentation(), np.random.default_rng(5))
    other = augment(marked(), Augmentation(drop_images=0.5), np.random.default_rng(5))
    np.testing.assert_array_equal(one.label, other.label)
    for wrong in ({"drop_images": 1.0}, {"drop_sources": -0.1}, {"shift_days": -1.0}):
        with pytest.raises(ValueError, match="must be at least 0"):
            Augmentation(**wrong)
