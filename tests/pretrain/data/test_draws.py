"""What each micro-step holds: against its definition, in other processes, and for mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.corpus.dataset import Corpus
from pretrain.data.draws import drawn_frames, stratified_frames
from pretrain.data.hashing import hashed, named_key
from pretrain.data.mixture import mixture_cycle
from pretrain.data.sample_table import SampleTable
from pretrain.data.shuffling import shuffled
from pretrain.data.stream import Stream
from pretrain.objective.mean_teacher import views
from tests.support.pretraining import stream_config
from tests.support.small_corpus import SMALL_CORPUS


def test_same_order_in_another_process_and_another_order_for_another_seed(corpus: Corpus) -> None:
    program = (
        "import sys, json; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from pretrain.data.config import StreamConfig; from pretrain.data.stream import Stream;"
        "s = Stream(load_corpus(Path(sys.argv[1])), 'train', StreamConfig(num_frames=5, global_batch_size=4)).draws;"
        "d = [s.draw(k) for k in range(9)];"
        "print(json.dumps([[s.keys(k) for k in range(9)], [x.frames.tolist() for x in d], [x.orientation.tolist() for x in d]]))"
    )
    command = [sys.executable, "-c", program, corpus.folder]
    done = subprocess.run(
        command, env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=True
    )

    def described(seed: int) -> list[Any]:
        stream = Stream(corpus, "train", stream_config(seed=seed))
        draws = [stream.draws.draw(step) for step in range(9)]
        keys = [stream.draws.keys(step) for step in range(9)]
        return [keys, [d.frames.tolist() for d in draws], [d.orientation.tolist() for d in draws]]

    assert json.loads(done.stdout) == described(0)
    assert all(a != b for a, b in zip(described(0), described(1), strict=True))


def test_frames_and_orientations_change_from_epoch_to_epoch(corpus: Corpus) -> None:
    stream = Stream(corpus, "train", stream_config(mixture={"modis": 1.0}, global_batch_size=SMALL_CORPUS["modis"]))
    first, second = stream.draws.draw(0), stream.draws.draw(1)
    a, b = first.samples.argsort(), second.samples.argsort()
    assert (first.frames[a] != second.frames[b]).any(axis=1).all()
    assert (first.orientation[a] != second.orientation[b]).any()
    assert stream.draws.epoch_of(3) == 3.0
    assert stream.draws.micro_steps_per_epoch("modis") == 1.0
    plain = Stream(corpus, "train", stream_config(augment=False))
    assert not any(plain.draws.draw(step).orientation.any() for step in range(10))


def test_draws_are_functions_of_position_alone(corpus: Corpus) -> None:
    """Batch by batch and position by position, as the functions say; the stream draws many batches at once."""
    changes: dict[str, Any] = {"mixture": {"landsat": 1.0}, "global_batch_size": {"landsat": 6}}
    stream = Stream(corpus, "train", stream_config(**changes))
    table = SampleTable(corpus, "landsat", "train")
    order, frames, orientation = (
        named_key(corpus.fingerprint, 0, "train", "landsat", what) for what in ("order", "frames", "orientation")
    )
    for step in (0, 1, 84, 85, 86, 170, 2**33):
        draw = stream.draws.draw(step)
        for place in range(6):
            epoch = np.array([(6 * step + place) // SMALL_CORPUS["landsat"]])
            sample = shuffled(np.array([6 * step + place]), SMALL_CORPUS["landsat"], order)
            assert draw.samples[place] == sample[0]
            expected = drawn_frames(sample, epoch, table.frames[sample], 5, frames)
            np.testing.assert_array_equal(draw.frames[place], expected[0])
            assert draw.orientation[place] == int(hashed(sample, hashed(epoch, orientation))[0]) >> 61


def test_mixture_proportions(corpus: Corpus) -> None:
    stream = Stream(corpus, "train", stream_config(mixture={"landsat": 3.0, "modis": 1.0}))
    names = [stream.draws.source_of(step) for step in range(400)]
    assert Counter(names) == {"landsat": 300, "modis": 100}
    assert all(names[i : i + 4].count("modis") == 1 for i in range(0, 400, 4))
    assert len({tuple(names[i : i + 4]) for i in range(0, 400, 4)}) == 4
    assert [stream.draws.epoch_of(k) for k in range(9)] == [
        names[:k].count(names[k]) * 4 / SMALL_CORPUS[names[k]] for k in range(9)
    ]
    assert mixture_cycle({"a": 1.0, "b": 1.0, "c": 1.0}) == ["a", "b", "c"]
    thirds = Counter(mixture_cycle({"a": 2**0.5, "b": 1.0}))
    assert abs(thirds["a"] / thirds.total() - 2**0.5 / (1 + 2**0.5)) < 0.005


@pytest.mark.parametrize(
    ("changes", "world_size", "match"),
    [
        ({"mixture": {"landsat": 1.0, "sentinel3": 1.0}}, 1, r"sentinel3.*holds \['landsat', 'modis'\]"),
        ({"mixture": {"landsat": -1.0}}, 1, "positive"),
        ({"mixture": {"landsat": 1.0, "modis": 1e-6}}, 1, "below 1 in 100"),
        ({"global_batch_size": 5}, 2, "5, which 2 ranks cannot share equally; take 4"),
        ({"global_batch_size": {"landsat": 2}}, 1, "no entry for source 'modis'"),
        ({"num_frames": 18}, 1, r"of \d+ samples of source 'landsat' have fewer than num_frames=18.*lower num_frames"),
        ({"num_frames": 0}, 1, "at least 1"),
        ({"data_echoing": 0}, 1, "data_echoing is 0; expected 1"),
        ({"skip_damaged": -1}, 1, "skip_damaged is -1; expected 0"),
        ({"cache_keep_free_gb": -2.0}, 1, "cache_keep_free_gb is -2.0; expected 0 or more GB"),
    ],
)
def test_mistakes_are_named(corpus: Corpus, changes: dict[str, Any], world_size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Stream(corpus, "train", stream_config(**changes), 0, world_size)


def test_empty_split_is_named(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"no samples of source 'landsat' in split 'val'"):
        Stream(corpus, "val", stream_config())


def test_frames_are_drawn_evenly_from_those_a_sample_has() -> None:
    samples = np.arange(6000)
    available = np.where(samples % 2, 20, 8)
    frames = drawn_frames(samples, np.zeros_like(samples), available, 5, key=3)
    assert (np.diff(frames, axis=1) > 0).all()
    for length, rows in ((8, frames[::2]), (20, frames[1::2])):
        share = np.bincount(rows.ravel(), minlength=length) / len(rows)
        assert len(share) == length
        np.testing.assert_allclose(share, 5 / length, atol=4 * (0.25 / len(rows)) ** 0.5)  # four standard errors


def test_stratified_frames_come_one_from_each_run_of_the_year() -> None:
    samples = np.arange(6000)
    available = np.where(samples % 2, 20, 5)
    frames = stratified_frames(samples, np.zeros_like(samples), available, 5, key=3)
    np.testing.assert_array_equal(frames[::2], np.tile(np.arange(5), (3000, 1)))  # as many frames as runs
    np.testing.assert_array_equal(frames[1::2] // 4, np.tile(np.arange(5), (3000, 1)))
    share = np.bincount(frames[1::2].ravel(), minlength=20) / 3000
    np.testing.assert_allclose(share, 1 / 4, atol=4 * (0.25 / 3000) ** 0.5)
    other = stratified_frames(samples, np.ones_like(samples), available, 5, key=3)
    assert 0.7 < (frames[1::2] != other[1::2]).mean() < 0.8  # another epoch
    assert abs(np.corrcoef(frames[1::2, 0], frames[1::2, 1])[0, 1]) < 0.08  # independent of each other


@pytest.mark.parametrize("data_echoing", [1, 2])
def test_the_teachers_dates_are_a_draw_of_their_own_behind_those_of_the_student(corpus: Corpus, data_echoing: int) -> None:
    changes: dict[str, Any] = {"frame_draw": "stratified", "data_echoing": data_echoing}
    alone = Stream(corpus, "train", stream_config(**changes))
    both = Stream(corpus, "train", stream_config(teacher_dates="own", **changes))
    for step in range(4):
        expected, batch = alone.batch(step), both.batch(step)
        assert batch.keys == expected.keys
        for name in ("pixels", "valid", "dates", "day_of_year"):
            np.testing.assert_array_equal(getattr(batch, name)[:, :5].numpy(), getattr(expected, name).numpy())
        assert (batch.dates[:, 5:].diff(dim=1) > 0).all()
        assert not np.array_equal(batch.dates[:, 5:].numpy(), batch.dates[:, :5].numpy())
        ones, zeros = torch.ones(batch.pixels.shape[2]), torch.zeros(batch.pixels.shape[2])
        student, teacher = views(batch, zeros, ones, num_frames=5)
        np.testing.assert_array_equal(student.numpy(), views(expected, zeros, ones)[0].numpy())
        whole = batch.normalized(zeros, ones)
        np.testing.assert_array_equal(teacher.numpy(), whole[:, 5:].numpy())
