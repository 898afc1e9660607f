"""Batches that processes read ahead are those that are read in the training process; how the processes end."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from common.errors import InfrastructureError
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data import batch_workers
from finetune.data.augmentation import Augmentation
from finetune.data.batches import BatchDraw, BatchLayout
from finetune.data.scene_windows import SceneWindows
from finetune.data.stored_windows import StoredWindows
from finetune.task import load_task
from finetune.training.reading import BatchReading, WindowBatch
from tests.support.pretraining import python_environment
from tests.support.rice_scenes import write_rice_scene
from tests.support.window_stores import stored_windows

CPU = torch.device("cpu")
HOW = Augmentation(shift_days=20, drop_images=0.2, drop_sources=0.3, crop_px=32)
RICE = replace(load_task("paddy_rice"), frames=5, cut_dates=("06-01", "08-15"), upsample={"modis": 4})


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> StoredWindows:
    """Nine windows of 64 px, of which a crop has 32."""
    folder = tmp_path_factory.mktemp("data")
    write_rice_scene(folder / "a", "train", side=192, cloudy=0.4, frames=12)
    found = stored_windows(SceneWindows([load_scene(folder / "a")], RICE, load_sensors(), augmentation=HOW), folder / "windows")
    found.normalization = {source: found.statistics(source) for source in RICE.sources}
    return found


def draws(steps: int = 7, rank: int = 0, world_size: int = 1, size: int = 5) -> list[BatchDraw]:
    orders = (np.random.default_rng(step).permutation(9)[:size] for step in range(steps))
    return [BatchDraw.of_rank(order, (3, 0, step), rank, world_size) for step, order in enumerate(orders)]


def read(windows: StoredWindows, num_workers: int, drawn: list[BatchDraw], augmented: bool = True) -> list[WindowBatch]:
    with BatchReading(num_workers, CPU) as reading:
        return list(reading.batches(windows, drawn, augmented))


def assert_equal_batches(ours: list[WindowBatch], theirs: list[WindowBatch]) -> None:
    assert [batch.names for batch in ours] == [batch.names for batch in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.draw == other.draw
        for tensor, same in zip(one.tensors(), other.tensors(), strict=True):
            assert tensor.dtype == same.dtype
            assert torch.equal(tensor, same)


def test_batches_are_the_items_of_their_windows(windows: StoredWindows) -> None:
    for drawn, batch in zip(draws(), read(windows, 0, draws()), strict=True):
        generators = np.random.default_rng(list(drawn.seeds or ())).spawn(5)
        items = [windows.item(index, rng) for index, rng in zip(drawn.indices, generators, strict=True)]
        for source in RICE.sources:
            assert torch.equal(batch.data[source], torch.stack([item["data"][source] for item in items]))
        assert torch.equal(batch.label, torch.stack([item["label"] for item in items]))
        assert batch.label.shape == (5, 32, 32)
        assert batch.names == [item["file_name"] for item in items]
    plain = BatchDraw(indices=(2, 7), first=0, size=2)
    (batch,) = read(windows, 0, [plain], augmented=False)
    assert batch.label.shape == (2, 64, 64)
    assert torch.equal(batch.data["modis"], torch.stack([windows[index]["data"]["modis"] for index in (2, 7)]))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_processes_read_the_same_batches(windows: StoredWindows, num_workers: int) -> None:
    assert_equal_batches(read(windows, num_workers, draws()), read(windows, 0, draws()))
    assert_equal_batches(read(windows, num_workers, draws(1)), read(windows, 0, draws(1)))
    assert read(windows, num_workers, []) == []


def test_slices_of_ranks_make_up_the_batch(windows: StoredWindows) -> None:
    whole = read(windows, 0, draws())
    of_ranks = [read(windows, 0, draws(rank=rank, world_size=3)) for rank in range(3)]
    for number, batch in enumerate(whole):
        slices = [batches[number] for batches in of_ranks]
        assert [(part.draw.first, part.draw.size) for part in slices] == [(0, 5), (2, 5), (4, 5)]
        assert torch.equal(batch.label, torch.cat([part.label for part in slices]))
        assert torch.equal(batch.data["modis"], torch.cat([part.data["modis"] for part in slices]))


def test_validation_is_read_while_training_batches_wait(windows: StoredWindows) -> None:
    """The processes have read ahead for the next epoch; their answers are not mistaken for batches of validation."""
    expected = read(windows, 0, draws())
    plain = [BatchDraw(indices=(index,), first=0, size=1) for index in range(9)]
    of_validation = read(windows, 0, plain, augmented=False)
    with BatchReading(2, CPU) as reading, closing(reading.batches(windows, draws(), True)) as training:
        found = [next(training) for _ in range(3)]
        assert_equal_batches(list(reading.batches(windows, plain, False)), of_validation)
        found += [next(training)]
        with closing(reading.batches(windows, plain, False)) as broken_off:
            next(broken_off)
        found += list(training)
        assert_equal_batches(found, expected)
        assert_equal_batches(list(reading.batches(windows, plain, False)), of_validation)


def test_a_share_of_the_windows_is_sent_as_it_is(windows: StoredWindows) -> None:
    part = StoredWindows(windows._store, windows)
    part.keep_share(0.6, seed=1)
    assert len(part) == 5
    drawn = [BatchDraw(indices=(0, 4), first=0, size=2, seeds=(1, 2))]
    assert_equal_batches(read(part, 1, drawn), read(part, 0, drawn))


def test_memory_of_batches_is_used_again(windows: StoredWindows) -> None:
    with BatchReading(2, CPU) as reading:
        places = {batch.label.data_ptr() for batch in reading.batches(windows, draws(40), True)}
    assert len(places) < 8


def own_processes() -> set[psutil.Process]:
    return {process for process in psutil.Process().children() if batch_workers.__name__ in process.cmdline()}


def test_signals_for_all_processes_are_for_the_one_that_trains_and_leaving_ends_the_others(windows: StoredWindows) -> None:
    expected = read(windows, 0, draws())
    with BatchReading(2, CPU) as reading:
        batches = reading.batches(windows, draws(), True)
        found = [next(batches)]
        processes = own_processes()
        assert len(processes) == 2
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for process in processes:
                process.send_signal(number)
        assert_equal_batches(found + list(batches), expected)
    assert not own_processes()


def test_what_a_process_raises_is_raised_here(windows: StoredWindows) -> None:
    other = StoredWindows(windows._store, windows)
    other.normalization = {"landsat": {"mean": [0.0] * 6, "std": [1.0] * 6}}
    with pytest.raises(KeyError, match="modis"):
        read(other, 1, draws())


def test_a_process_that_was_killed_is_named(windows: StoredWindows) -> None:
    with BatchReading(2, CPU) as reading:
        batches = reading.batches(windows, draws(100), True)
        next(batches)
        for process in own_processes():
            process.kill()
        with pytest.raises(InfrastructureError, match="batches of windows ended with exit code -9: the system lacked memory"):
            list(batches)


def test_a_process_that_hangs_is_named(windows: StoredWindows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_workers, "READ_TIMEOUT_S", 0.5)
    with BatchReading(1, CPU) as reading:
        batches = reading.batches(windows, draws(100), True)
        for process in begun(batches):
            os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(InfrastructureError, match=r"has not read a batch of windows within 0.5 s; does the storage"):
            list(batches)


def begun(batches: Iterator[WindowBatch]) -> set[psutil.Process]:
    """The processes, once they have begun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_workers, "READ_TIMEOUT_S", 60.0)
        next(batches)
    return own_processes()


def test_windows_that_are_gone_are_named(windows: StoredWindows, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(windows.folder, tmp_path / "copied"))
    other = StoredWindows(type(windows._store)(copied), windows)
    shutil.rmtree(copied)
    with pytest.raises(InfrastructureError, match="were removed or changed while a run reads them"):
        read(other, 1, draws())


def test_windows_of_another_size_are_refused(windows: StoredWindows) -> None:
    layout = BatchLayout.of(windows, augmented=False)
    with BatchReading(0, CPU) as reading, pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchLayout, "of", lambda *_: replace(layout, frames=layout.frames | {"modis": (5, 7, 4, 4)}))
        with pytest.raises(ValueError, match=r"the frames of modis are \(5, 7, 16, 16\), those of other windows \(5, 7, 4, 4\)"):
            next(reading.batches(windows, [BatchDraw(indices=(0,), first=0, size=1)], False))


@pytest.mark.slow
def test_processes_end_with_the_one_that_trains(windows: StoredWindows) -> None:
    program = (
        "import os, pickle, signal, sys, psutil, torch; from finetune.training.reading import BatchReading;"
        "from finetune.data.batches import BatchDraw; windows = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "draws = [BatchDraw(indices=(0,), first=0, size=1, seeds=(1,))] * 99;"
        "batches = BatchReading(2, torch.device('cpu')).batches(windows, draws, True); next(batches);"
        "print(*(p.pid for p in psutil.Process().children()), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, pickle.dumps(windows).hex()]
    done = subprocess.run(command, capture_output=True, text=True, env=python_environment(), check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    processes = [int(number) for number in done.stdout.split()]
    assert len(processes) == 2
    _, left = psutil.wait_procs([psutil.Process(number) for number in processes if psutil.pid_exists(number)], timeout=10)
    assert not left
    assert done.stderr == ""
