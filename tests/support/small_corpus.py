"""Small corpora of random numbers, written by tarfile, json and numpy alone; and damage to them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import Corpus
from data_prep.landcover.legend import load_legend

SIDE_PX = 6
SCENES = {"train": "scene", "validation": "other"}  # by split
SMALL_CORPUS = {"landsat": 13, "modis": 7}  # samples of each source


def checksums(key: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """As the contract says: XXH3 of key, counts, map if any, day, pixels and validity, each seeded by the one before."""
    of_map = [arrays["landcover_map.npy"]] if "landcover_map.npy" in arrays else []
    parts = []
    for day, pixels, valid in zip(arrays["dates.npy"], arrays["pixels.npy"], arrays["valid.npy"], strict=True):
        checksum = 0
        for content in (key.encode(), arrays["landcover.npy"], *of_map, day, pixels, valid):
            checksum = xxhash.xxh3_64(content if isinstance(content, bytes) else content.tobytes(), seed=checksum).intdigest()
        parts.append(checksum)
    return np.array(parts, np.uint64)


def write_corpus(
    folder: Path,
    samples: dict[str, int],
    frames: tuple[int, int] = (17, 24),
    side: int = SIDE_PX,
    validation: dict[str, int] | None = None,
    maps: bool = False,
) -> Path:
    """A corpus by plain tarfile and json as the contract says: two shards per source and split, all numbers random.

    `samples` and `validation`: samples of each source in the two splits. `maps`: with land-cover maps; the numbers of all else,
    but for the checksums, are the same with and without.
    """
    rng, rng_of_maps = np.random.default_rng(5), np.random.default_rng(6)
    sensors, legend = load_sensors(), load_legend("glc_fcs30d")
    shards, contents = [], []
    sources: dict[str, dict[str, Any]] = {}
    parts = [("train", *of_source) for of_source in samples.items()]
    parts += [("validation", *of_source) for of_source in (validation or {}).items()]
    for split, source, count in parts:
        sensor = sensors[source]
        shape = [len(sensor.bands), side, side]
        described = {
            "sensor": sensor.to_dict(),
            "shape": shape,
            "normalization": {"mean": [1000.0] * shape[0], "std": [500.0] * shape[0]},
            "splits": {},
        }
        dtype, map_shape = ("uint16", [len(legend.codes), side, side]) if source == "modis" else ("uint8", [side, side])
        if maps:
            described["land_cover_maps"] = {legend.name: {"dtype": dtype, "shape": map_shape}}
        sources.setdefault(source, described)
        of_source: list[tuple[int, dict[str, Any]]] = []  # number of the shard, entry
        for number, part in enumerate(np.array_split(np.arange(count), 2)):
            name = f"{source}-{split}-{number:06d}"
            entries: list[dict[str, Any]] = []
            with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for i in part.tolist():
                    key, length = f"{source}-{SCENES[split]}-2021-r{i:05d}-c00000", int(rng.integers(*frames))
                    counts = rng.integers(0, 50, len(legend.codes))
                    arrays = {
                        "dates.npy": (18_628 + np.sort(rng.choice(365, length, replace=False))).astype(np.int32),
                        "landcover.npy": counts.astype(np.int64),
                        "pixels.npy": rng.integers(0, 10_000, (length, *shape)).astype(sensor.dtype),
                        "valid.npy": rng.random((length, side, side)) < 0.7,
                    }
                    if maps:
                        of_map = rng_of_maps.integers(0, len(legend.codes), map_shape).astype(dtype)
                        of_map[..., 0, 0] = 255  # of codes: not mapped
                        arrays["landcover_map.npy"] = of_map
                    arrays = {name: arrays[name] for name in sorted(arrays)}
                    arrays = {"checksums.npy": checksums(key, arrays), **arrays}
                    members = {}
                    for member, array in arrays.items():
                        buffer = io.BytesIO()
                        np.save(buffer, array)
                        info = tarfile.TarInfo(f"{key}.{member}")
                        info.size = len(buffer.getvalue())
                        offset = tar.offset + 512  # one header block stands before the data
                        tar.addfile(info, io.BytesIO(buffer.getvalue()))
                        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
                        members[member] = {"offset": offset, "size": info.size, "sha256": sha256}
                    info = tarfile.TarInfo(f"{key}.json")
                    text = json.dumps({"source": source, "year": 2021}).encode()
                    info.size = len(text)
                    members["json"] = {"offset": tar.offset + 512, "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
                    tar.addfile(info, io.BytesIO(text))
                    entries.append(
                        {
                            "key": key,
                            "frames": length,
                            "days": arrays["dates.npy"][[0, -1]].tolist(),
                            "members": members,
                            "legend": legend.name,
                            "land_cover": counts.tolist(),
                        }
                    )
            of_source += [(number, entry) for entry in entries]
            data = (folder / f"{name}.tar").read_bytes()
            shard = {"shard": f"{name}.tar", "source": source, "split": split, "bytes": len(data)}
            shard["xxh3_128"] = xxhash.xxh3_128(data).hexdigest()
            statistics = {name: [0] * shape[0] for name in ("count", "total", "squares")}
            index = {"version": 2, **shard, "plan": "0" * 64, "samples": entries, "statistics": statistics}
            (folder / f"{name}.json").write_text(json.dumps(index))
            contents.append((folder / f"{name}.json").read_bytes())
            shards.append({**shard, "samples": len(entries)})
        sources[source]["splits"][split] = write_table(folder / f"{source}-{split}.samples.npy", of_source)
    description = {
        "version": 3,
        "fingerprint": hashlib.sha256(b"".join(contents)).hexdigest(),
        "sources": sources,
        "legends": {legend.name: legend.to_dict()},
        "shards": shards,
        "rejected": 0,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def write_table(path: Path, entries: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """The table of samples of one source by plain numpy as the contract says; returns what dataset.json says of the split."""
    names = ["pixels", "valid", "dates", "landcover", "checksums"]
    names += ["landcover_map"] if "landcover_map.npy" in entries[0][1]["members"] else []
    rows = [
        (
            entry["key"].encode(),
            number,
            entry["frames"],
            [entry["members"][f"{name}.npy"]["offset"] for name in names],
            [entry["members"][f"{name}.npy"]["size"] for name in names],
        )
        for number, entry in entries
    ]
    width = max(len(row[0]) for row in rows)
    count = len(names)
    columns = [("key", f"S{width}"), ("shard", "<i4"), ("frames", "<i4"), ("offsets", "<i8", count), ("sizes", "<i8", count)]
    np.save(path, np.array(rows, dtype=columns))
    frames = [entry["frames"] for _, entry in entries]
    shares = [np.array(entry["land_cover"]) / np.sum(entry["land_cover"]) for _, entry in entries]
    return {
        "table": path.name,
        "xxh3_128": xxhash.xxh3_128(path.read_bytes()).hexdigest(),
        "samples": len(rows),
        "frames": {"shortest": min(frames), "longest": max(frames)},
        "mean_shares": {entries[0][1]["legend"]: np.mean(shares, axis=0).tolist()},
    }


def damage(folder: Path, corpus: Corpus, numbers: list[int], source: str = "modis", split: str = "train") -> list[str]:
    """Flip bits of every frame of samples of a source; returns their keys."""
    entries = corpus.samples(source, split)
    for number in numbers:
        shard = folder / Path(entries[number].shard).name
        data = bytearray(shard.read_bytes())
        place = entries[number].members["pixels.npy"]
        for at in range(place.offset + 128, place.offset + place.size, 8):
            data[at] ^= 1
        shard.write_bytes(data)
    return [entries[number].key for number in numbers]
