"""The window store against windows that are read straight from scenes and samples; kills, damage, full disks, two at once."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InfrastructureError
from common.run_lock import LOCK, RunLock
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from finetune.data import window_store_writing
from finetune.data.augmentation import Augmentation
from finetune.data.image_stack import ImageStack
from finetune.data.sample_windows import SampleWindows
from finetune.data.scene_windows import SceneWindows
from finetune.data.stored_windows import StoredWindows
from finetune.data.window_dataset import LabelledWindows
from finetune.data.window_store import INDEX, LABELS, PROGRESS, WINDOWS, WindowStore
from finetune.data.window_store_writing import stored
from finetune.task import Task, load_task
from tests.support.labelled_samples import FACTOR, YEAR, make_sample
from tests.support.launching import wait_for
from tests.support.pretraining import python_environment
from tests.support.rice_scenes import write_label, write_rice_scene
from tests.support.window_stores import assert_same_windows, stored_windows

SENSORS = load_sensors()
RICE = replace(load_task("paddy_rice"), season=("01-01", "12-31"), frames=5, window_px=32)
ALLOW = replace(RICE, missing_sources="allow")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 80 x 80 px, whose windows of 32 px reach over their edges."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, name in enumerate("ab"):
        write_rice_scene(folder / name, "train", side=80, seed=seed, cloudy=0.4, frames=8)
    return folder


def scene_windows(folder: Path, task: Task = RICE, **options: Any) -> SceneWindows:
    dataset = SceneWindows([load_scene(path) for path in sorted(folder.iterdir())], task, SENSORS, **options)
    return with_unit_normalization(dataset)


def sample_windows(samples: list[dict[str, Any]], task: Task = ALLOW, **options: Any) -> SampleWindows:
    return with_unit_normalization(SampleWindows(samples, task, SENSORS, **options))


def with_unit_normalization(dataset: Any) -> Any:
    bands = {source: len(SENSORS[source].bands) for source in dataset.task.sources}
    dataset.normalization = {source: {"mean": [2000.0] * count, "std": [500.0] * count} for source, count in bands.items()}
    return dataset


def odd_samples() -> list[dict[str, Any]]:
    """Samples of other sizes and numbers of dates, without dates, without a source, and without a label."""
    rng = np.random.default_rng(0)
    large, small, dated, without, unlabelled, stated = (
        make_sample(n, side=side) for n, side in enumerate((48, 16, 32, 32, 32, 32))
    )
    large["label"][32:, :32] = -1
    days = YEAR + np.sort(rng.choice(365, 8, replace=False))
    dated["dates"] = dict.fromkeys(dated["data"], days.astype(str).tolist())
    del without["data"]["modis"]
    unlabelled["label"][:] = -1
    stated["valid"] = {"landsat": rng.random((8, 32, 32)) < 0.5}
    longer = make_sample(9, frames=30)
    return [large | {"scene": "x"}, small | {"scene": "x"}, unlabelled, dated, without, stated, longer]


TASKS = {
    "plain": ALLOW,
    "pixel compositing": replace(ALLOW, compositing="pixel"),
    "upsampled": replace(ALLOW, upsample={"modis": 4}),
    "one source": replace(ALLOW, sources=("landsat",)),
}


@pytest.mark.parametrize("name", TASKS)
def test_windows_of_samples_are_those_of_the_samples(name: str, tmp_path: Path) -> None:
    how = Augmentation(shift_days=20, drop_images=0.3, drop_sources=0.3, crop_px=FACTOR)
    straight = sample_windows(odd_samples(), TASKS[name], augmentation=how)
    assert len(straight) == 8
    stored_ones = stored_windows(straight, tmp_path)
    assert_same_windows(stored_ones, straight)
    assert (stored_ones.years, stored_ones.pixel_sizes) == (straight.years, straight.pixel_sizes)
    np.testing.assert_array_equal(stored_ones.class_pixels(), straight.class_pixels())
    scene_numbers = [stored_ones.scene_of(index) for index in range(8)]
    names = [straight.scene_of(index) for index in range(8)]
    assert [scene_numbers.index(n) for n in scene_numbers] == [names.index(n) for n in names]


@pytest.mark.parametrize("cut_dates", [(), ("04-01", "08-15")])
def test_windows_of_scenes_are_those_of_the_scenes(cut_dates: tuple[str, ...], scenes: Path, tmp_path: Path) -> None:
    straight = scene_windows(scenes, replace(RICE, cut_dates=cut_dates))
    stored_ones = stored_windows(straight, tmp_path)
    assert len(stored_ones) == 18
    assert not straight._open, "its readers are closed"
    assert_same_windows(stored_ones, straight)
    with stored_ones.ended_after(150), straight.ended_after(150):
        assert_same_windows(stored_ones, straight)


def test_statistics_and_shares_are_those_of_the_straight_windows(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = scene_windows(scenes)
    whole, part = (stored_windows(straight, tmp_path) for _ in range(2))
    for robust in (True, False):
        found = {source: whole.statistics(source, robust=robust) for source in RICE.sources}
        assert found == {source: straight.statistics(source, robust=robust) for source in RICE.sources}
        with monkeypatch.context() as patch:  # the second time nothing is read
            patch.setattr(StoredWindows, "stacks", None)
            assert {source: part.statistics(source, robust=robust) for source in RICE.sources} == found
    assert whole.statistics_of(range(3), "modis") == straight.statistics_of(range(3), "modis")
    for fraction in (0.5, 0.4):  # of what is left
        part.keep_share(fraction, seed=3)
        straight.keep_share(fraction, seed=3)
        assert_same_windows(part, straight)
        assert part.statistics("landsat") == straight.statistics("landsat") != whole.statistics("landsat")
    assert len(part) == 4


def test_frames_are_those_of_the_task_that_reads(scenes: Path, tmp_path: Path) -> None:
    """Another number of frames needs no other store."""
    stored_windows(scene_windows(scenes), tmp_path)
    straight = scene_windows(scenes, replace(RICE, frames=3))
    assert_same_windows(stored_windows(straight, tmp_path), straight)
    assert len(list(tmp_path.iterdir())) == 1


def only(folder: Path) -> Path:
    (store,) = folder.iterdir()
    return store


def changed_label(folder: Path) -> LabelledWindows:
    codes = np.full((80, 80), 3)
    codes[:40] = 1
    write_label(folder / "a" / "crop_type.tif", codes)
    return scene_windows(folder)


OTHERS: dict[str, Callable[[Path], LabelledWindows]] = {
    "label": changed_label,
    "season": lambda folder: scene_windows(folder, replace(RICE, season=("03-01", "12-31"))),
    "source": lambda folder: scene_windows(folder, replace(RICE, sources=("landsat",))),
    "order of sources": lambda folder: scene_windows(folder, replace(RICE, sources=("modis", "landsat"))),
    "window": lambda folder: scene_windows(folder, replace(RICE, window_px=48)),
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_the_windows_depend_on_gives_another_store(change: str, scenes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    stored_windows(scene_windows(folder), tmp_path / "windows")
    other = OTHERS[change](folder)
    assert_same_windows(stored_windows(with_unit_normalization(other), tmp_path / "windows"), other)
    assert len(list((tmp_path / "windows").iterdir())) == 2
    stored_windows(with_unit_normalization(other), tmp_path / "windows", data="of another fingerprint")
    assert len(list((tmp_path / "windows").iterdir())) == 3


def test_images_that_have_changed_since_are_not_used_in_silence(tmp_path: Path) -> None:
    samples = [make_sample(number) for number in range(3)]
    stored_windows(sample_windows(samples), tmp_path)
    samples[2]["data"]["modis"] += 1
    with pytest.raises(ValueError, match=r"images of modis in --data have changed .*\(s2-r00000-c00000 differs\): remove this"):
        stored_windows(sample_windows(samples), tmp_path)


def test_a_store_is_opened_where_nothing_can_be_written(scenes: Path, tmp_path: Path) -> None:
    straight = scene_windows(scenes)
    stored_windows(straight, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in only(tmp_path).iterdir()}
    assert_same_windows(stored_windows(straight, tmp_path), straight)
    assert {path: path.stat().st_mtime_ns for path in only(tmp_path).iterdir()} == before


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 - 7)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    (WINDOWS, truncate, r"windows.bin has \d+ bytes instead of \d+"),
    (WINDOWS, Path.unlink, r"windows.bin has 0 bytes instead of"),
    (WINDOWS, lengthen, r"windows.bin has \d+ bytes instead of"),
    (LABELS, truncate, "labels.npy cannot be read"),
    (LABELS, flip, "labels.npy holds other labels"),
    (INDEX, flip, "its index has a wrong checksum"),
    (INDEX, truncate, "its index has a wrong checksum"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), DAMAGE)
def test_a_damaged_file_is_named_and_written_again(
    name: str, spoil: Callable[[Path], None], message: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = scene_windows(scenes)
    stored_windows(straight, tmp_path)
    whole = {path.name: path.read_bytes() for path in only(tmp_path).iterdir()}
    spoil(only(tmp_path) / name)
    again = stored_windows(straight, tmp_path)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert said.startswith(f"windows stored in {only(tmp_path)} are damaged and written again: ")
    assert re.search(message, said)
    assert_same_windows(again, straight)
    assert {path.name: path.read_bytes() for path in only(tmp_path).iterdir()} == whole


def test_windows_that_are_there_are_not_read_again(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a truncation, and after writing that ended early."""
    straight, begun = scene_windows(scenes), []
    stored_windows(straight, tmp_path)
    stacks_from = SceneWindows.stacks_from

    def note(self: SceneWindows, first: int) -> Iterator[dict[str, ImageStack]]:
        begun.append(first)
        return stacks_from(self, first)

    monkeypatch.setattr(SceneWindows, "stacks_from", note)
    end = WindowStore(only(tmp_path)).index.offsets[12]
    os.truncate(only(tmp_path) / WINDOWS, end + 100)
    stored_windows(straight, tmp_path)
    assert begun == [12]
    flip(only(tmp_path) / LABELS)
    assert_same_windows(stored_windows(straight, tmp_path), straight)
    assert begun == [12], "labels are not read from scenes"


# A process that stores windows and kills itself when it has written the n-th of them.
KILLED = """
import os, signal, sys
from pathlib import Path
from finetune.data import window_store_writing
from tests.finetune.data.test_window_store import scene_windows
from tests.support.window_stores import stored_windows

when, known, calls = int(sys.argv[3]), window_store_writing.window_bytes, []

def killing(*arguments):
    calls.append(1)
    if len(calls) == when:
        os.kill(os.getpid(), signal.SIGKILL)
    return known(*arguments)

window_store_writing.window_bytes = killing
window_store_writing.SYNC_BYTES = int(sys.argv[4])
stored_windows(scene_windows(Path(sys.argv[1])), Path(sys.argv[2]))
print(len(calls))
"""


@pytest.mark.slow
def test_writing_that_was_killed_goes_on_where_it_was(scenes: Path, tmp_path: Path) -> None:
    straight = scene_windows(scenes)
    stored_windows(straight, tmp_path / "undisturbed")
    size = WindowStore(only(tmp_path / "undisturbed")).index.offsets[1]

    def write(when: int, sync_bytes: int = size) -> subprocess.CompletedProcess[str]:
        arguments = [str(scenes), str(tmp_path / "killed"), str(when), str(sync_bytes)]
        command = [sys.executable, "-c", KILLED, *arguments]
        return subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=False)

    assert write(8).returncode == -signal.SIGKILL
    assert not (only(tmp_path / "killed") / INDEX).exists()
    assert write(3, 100 * size).returncode == -signal.SIGKILL, "nothing of it was noted"
    done = write(0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(18 - 7)]
    contents = [{path.name: path.read_bytes() for path in only(tmp_path / name).iterdir()} for name in ("undisturbed", "killed")]
    assert contents[0] == contents[1]
    assert set(contents[0]) == {WINDOWS, LABELS, INDEX, PROGRESS}


@pytest.mark.slow
def test_two_processes_at_once_write_a_store_once(scenes: Path, tmp_path: Path) -> None:
    arguments = [str(scenes), str(tmp_path), "0", "1000000"]
    both = [
        subprocess.Popen([sys.executable, "-c", KILLED, *arguments], env=python_environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(text.splitlines()[-1] for text in printed) == ["0", "18"]
    assert_same_windows(stored_windows(scene_windows(scenes), tmp_path), scene_windows(scenes))


def test_a_run_waits_for_the_one_that_writes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = scene_windows(scenes)
    stored_windows(straight, tmp_path)
    store = only(tmp_path)
    (store / INDEX).rename(tmp_path / "index")
    lock = RunLock(store / LOCK, store)
    lock.acquire()
    waits = []

    def wait(_: float) -> None:
        waits.append(1)
        if len(waits) == 3:
            (tmp_path / "index").rename(store / INDEX)
            lock.release()

    monkeypatch.setattr(window_store_writing.time, "sleep", wait)
    assert_same_windows(stored_windows(straight, tmp_path), straight)
    assert len(waits) == 3
    assert capsys.readouterr().out.count("waiting for the windows that another run writes: ") == 1


def test_a_disk_with_too_little_room_is_said_before(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = scene_windows(scenes)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ValueError, match=r"need 0.00\d+ GB more in .*, whose disk has 0.001 GB free: make room, give"):
        stored({"train": straight, "validation": straight}, tmp_path / "windows", {"data": "x"})
    assert not (tmp_path / "windows").exists()
    monkeypatch.undo()
    both = stored({"train": straight, "validation": straight}, tmp_path / "windows", {"data": "x"})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    again = stored({"train": straight, "validation": straight}, tmp_path / "windows", {"data": "x"})
    assert both["train"].folder == again["train"].folder != again["validation"].folder, "what is there needs no room"


def test_a_disk_that_fills_up_is_said_and_what_is_written_stays(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = scene_windows(scenes)
    size = int(stored_windows(straight, tmp_path / "whole")._store.index.offsets[1])
    write, room = os.pwrite, 5 * size + 1000

    def write_until_full(file: int, content: Any, place: int) -> int:
        """On a disk that takes so many bytes, and of the last write only a part."""
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = memoryview(content)[:room]
        room -= len(part)
        return write(file, part, place)

    monkeypatch.setattr(window_store_writing, "SYNC_BYTES", size)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_until_full)
        with pytest.raises(InfrastructureError, match=r"takes no more windows: No space left on device; 0.00\d+ GB are still"):
            stored_windows(straight, tmp_path / "windows")
    assert not (only(tmp_path / "windows") / INDEX).exists()
    assert window_store_writing.read_json(only(tmp_path / "windows") / PROGRESS) == {"windows": 5}
    assert_same_windows(stored_windows(straight, tmp_path / "windows"), straight)
    contents = [(only(tmp_path / name) / WINDOWS).read_bytes() for name in ("whole", "windows")]
    assert contents[0] == contents[1]


def test_memory_does_not_grow_with_the_store(tmp_path: Path) -> None:
    """The labels aside, which are read first."""

    class Many:
        """Samples that are made when they are asked for."""

        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {
                "data": {"landsat": np.full((16, 6, 64, 64), 1000 + index, np.int16)},
                "label": np.ones((64, 64), np.int16),
                "file_name": f"s{index}",
            }

    task = replace(RICE, sources=("landsat",), window_px=64)
    straight = SampleWindows(Many(), task, SENSORS)
    tracemalloc.start()
    store = stored_windows(straight, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    window = int(store._store.index.offsets[1])
    assert store._store.index.nbytes == 40 * window
    assert peak < 12 * window


def test_a_store_that_is_gone_is_named_in_other_processes(scenes: Path, tmp_path: Path) -> None:
    sent = pickle.dumps(stored_windows(scene_windows(scenes), tmp_path))
    assert len(sent) < 20_000
    shutil.rmtree(only(tmp_path))
    with pytest.raises(InfrastructureError, match="were removed or changed while a run reads them"):
        pickle.loads(sent)


def test_other_ranks_leave_the_writing_to_the_first_one(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = scene_windows(scenes)
    stored_windows(straight, tmp_path / "windows")
    store = only(tmp_path / "windows")
    (store / INDEX).rename(tmp_path / "index")
    monkeypatch.setattr(window_store_writing.ranks, "announced_ranks", lambda: (1, 2))
    monkeypatch.setattr(window_store_writing.time, "sleep", lambda _: (tmp_path / "index").rename(store / INDEX))
    monkeypatch.setattr(window_store_writing, "_write", None)
    assert_same_windows(stored_windows(straight, tmp_path / "windows"), straight)


def test_waiting_for_a_writer_that_dies(scenes: Path, tmp_path: Path) -> None:
    """The lock of a process that was killed stops nobody."""
    arguments = [str(scenes), str(tmp_path), "5", "1000000"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], env=python_environment(), capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    wait_for(lambda: any(only(tmp_path).glob(f"{LOCK}-*")), 5)
    straight = scene_windows(scenes)
    assert_same_windows(stored_windows(straight, tmp_path), straight)
    assert not list(only(tmp_path).glob(f"{LOCK}-*"))
