"""Raw `.npy` against compressed pixels: size, encoding and decoding per core, and the cost of 16 frames out of T.

    python tests/bench/bench_payload.py --output tests/bench/results/payload.json

On real series (Sentinel-2 of Romania, Landsat of Colorado, fetched by `data_prep/fetch_real.py`) and on simulated ones of
each source, one year a sample. A candidate earns its place in the shards only when the stock WebDataset decoder opens it and
the training stream can read 16 frames of it without paying for all T.

`break_even_mb_s` is the storage speed below which a training rank on one core gets its 16 frames sooner from the compressed
member than from the raw one; a candidate without access by frame must fetch and decode all T.

Decided by results/payload.json: shards hold raw `.npy`. What a stock reader opens compressed is 1.1 to 2.1 times smaller but
decodes at 0.1 to 0.3 GB/s, so that only storage below 40 to 200 MB/s a rank gains; the stream reads raw frames at several GB/s.
lz4 over shuffled bits (1.3 to 1.6 times smaller, 2 to 3 GB/s, break-even at 0.8 to 1.2 GB/s for frames of Landsat and Sentinel-2)
is what a faster format would take, but no stock reader opens it.
"""

from __future__ import annotations

import gzip
import io
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import webdataset
from tabulate import tabulate

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.archive.scene import find_scenes  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from data_prep.fetch_real import fetch_real  # noqa: E402
from data_prep.readers.opening import open_reader  # noqa: E402
from data_prep.simulate import simulate  # noqa: E402

DRAWN = 16  # frames that a training sample takes of the year
Chunks = list[bytes]  # an encoded member in the pieces that can be read on their own


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to store pixels (T, C, H, W).

    `encode` gives the member in pieces; the member is the pieces joined. With `by_frame` piece 0 is a header and piece
    1 + t is frame t, which `decode` turns into (C, H, W); else there is one piece, which `decode` turns into (T, C, H, W).
    `suffix` is the member's name for the stock reader, where that can open it.
    """

    name: str
    suffix: str | None
    by_frame: bool
    encode: Callable[[np.ndarray], Chunks]
    decode: Callable[[bytes, tuple[int, ...], np.dtype], np.ndarray]


def npy_bytes(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def frame_pieces(pixels: np.ndarray, encode: Callable[[bytes], bytes]) -> Chunks:
    """The .npy of `pixels` cut into its header and its frames, each encoded."""
    whole = npy_bytes(pixels)
    header = len(whole) - pixels.nbytes
    size = pixels[0].nbytes
    return [encode(whole[:header])] + [encode(whole[start : start + size]) for start in range(header, len(whole), size)]


def plain(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape)


def codec_candidate(name: str, codec: Any, change: Any = None, undo: Any = None) -> Candidate:
    """A frame at a time through a codec of numcodecs, `change`d before and `undo`ne after; no stock reader knows these."""
    change, undo = change or (lambda frame: frame), undo or (lambda frame: frame)
    return Candidate(
        name=name,
        suffix=None,
        by_frame=True,
        encode=lambda pixels: [b"", *(bytes(codec.encode(np.ascontiguousarray(change(frame)))) for frame in pixels)],
        decode=lambda data, shape, dtype: undo(np.frombuffer(codec.decode(data), dtype).reshape(shape)),
    )


def left_difference(frame: np.ndarray) -> np.ndarray:
    """Each pixel less its left neighbour, modulo 2^16."""
    return np.diff(frame, axis=-1, prepend=frame.dtype.type(0))


def left_sum(frame: np.ndarray) -> np.ndarray:
    return np.cumsum(frame, axis=-1, dtype=frame.dtype)


def time_difference(pixels: np.ndarray) -> np.ndarray:
    return np.diff(pixels, axis=0, prepend=np.zeros_like(pixels[:1]))


def whole_codec(pixels: np.ndarray) -> Chunks:
    codec = numcodecs.Blosc("zstd", 5, numcodecs.Blosc.SHUFFLE)
    return [bytes(codec.encode(np.ascontiguousarray(time_difference(pixels))))]


def from_whole_codec(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    difference = np.frombuffer(numcodecs.Blosc().decode(data), dtype).reshape(shape)
    return np.cumsum(difference, axis=0, dtype=dtype)


CANDIDATES = (
    Candidate(name="npy", suffix="npy", by_frame=True, encode=lambda p: frame_pieces(p, bytes), decode=plain),
    Candidate(
        name="npz, deflate",
        suffix="npz",
        by_frame=False,
        encode=lambda pixels: [npz_bytes(pixels=pixels)],
        decode=lambda data, *_: np.load(io.BytesIO(data))["pixels"],
    ),
    *(
        Candidate(
            name=f"npy.gz, a gzip stream a frame, level {level}",
            suffix="npy.gz",  # a reader that knows nothing of frames sees one .gz: gzip streams may be joined
            by_frame=True,
            encode=lambda pixels, level=level: frame_pieces(pixels, lambda data: gzip.compress(data, level, mtime=0)),  # type: ignore[misc]
            decode=lambda data, shape, dtype: plain(zlib.decompress(data, wbits=31), shape, dtype),
        )
        for level in (1, 6)
    ),
    codec_candidate("zstd a frame", numcodecs.Zstd(3)),
    codec_candidate("lz4, bits shuffled, a frame", numcodecs.Blosc("lz4", 5, numcodecs.Blosc.BITSHUFFLE)),
    codec_candidate("zstd, bits shuffled, a frame", numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE)),
    codec_candidate(
        "zstd, bytes shuffled, left difference, a frame",
        numcodecs.Blosc("zstd", 3, numcodecs.Blosc.SHUFFLE),
        left_difference,
        left_sum,
    ),
    Candidate(
        name="zstd, bytes shuffled, difference in time, whole",
        suffix=None,
        by_frame=False,
        encode=whole_codec,
        decode=from_whole_codec,
    ),
)


def cut(scenes: Path, chips: dict[str, int], limit: int) -> dict[str, list[np.ndarray]]:
    """By source up to `limit` samples (T, C, H, W) of one year each, evenly spread over all windows and years."""
    sensors = load_sensors(scenes / "sources")
    places: dict[str, list[tuple[Any, ...]]] = {}
    for scene in find_scenes(scenes):
        for source in scene.sources:
            with open_reader(scene, source, sensors) as reader:
                size = chips.get(source, sensors[source].chip_px)
                years = reader.dates.astype("datetime64[Y]")
                for year in np.unique(years):
                    times = slice(*np.searchsorted(years, [year, year + 1]).tolist())
                    if times.stop - times.start >= DRAWN:
                        rows, cols = (range(0, extent - size + 1, size) for extent in reader.grid.shape)
                        of_source = places.setdefault(source, [])
                        of_source.extend((scene, row, col, size, times) for row in rows for col in cols)
    samples: dict[str, list[np.ndarray]] = {}
    for source, found in places.items():
        for place in np.linspace(0, len(found) - 1, min(limit, len(found))).round().astype(int):
            scene, row, col, size, times = found[place]
            with open_reader(scene, source, sensors) as reader:
                samples.setdefault(source, []).append(np.ascontiguousarray(reader.read(row, col, size, size, times).pixels))
    return samples


def stock_reader_gives(candidate: Candidate, encoded: Chunks, pixels: np.ndarray) -> bool:
    """Whether WebDataset's own decoder gives the array, or for an .npz the array in it."""
    if candidate.suffix is None:
        return False
    decoded = webdataset.autodecode.Decoder([]).decode({"__key__": "k", f"pixels.{candidate.suffix}": b"".join(encoded)})
    value = decoded[f"pixels.{candidate.suffix}"]
    return np.array_equal(value if isinstance(value, np.ndarray) else value["pixels"], pixels)


def decode_frames(candidate: Candidate, encoded: Chunks, pixels: np.ndarray, frames: Iterable[int], out: np.ndarray) -> None:
    """The given frames into `out`, as a batch is filled."""
    if candidate.by_frame:
        for place, frame in enumerate(frames):
            out[place] = candidate.decode(encoded[1 + frame], pixels.shape[1:], pixels.dtype)
    else:
        out[:] = candidate.decode(encoded[0], pixels.shape, pixels.dtype)[list(frames)]


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(samples: Sequence[np.ndarray], rounds: int) -> list[dict[str, Any]]:
    """One row a candidate; all candidates take turns in each round, medians count."""
    rng = np.random.default_rng(0)
    drawn = [np.sort(rng.choice(len(pixels), DRAWN, replace=False)).tolist() for pixels in samples]
    outputs = [np.empty_like(pixels) for pixels in samples]
    some = [np.empty_like(pixels[:DRAWN]) for pixels in samples]
    encoded = {candidate.name: [candidate.encode(pixels) for pixels in samples] for candidate in CANDIDATES}
    times: dict[str, list[tuple[float, float, float]]] = {candidate.name: [] for candidate in CANDIDATES}
    for _ in range(rounds):
        for candidate in CANDIDATES:
            members = encoded[candidate.name]

            def encode(candidate: Candidate = candidate) -> None:
                for pixels in samples:
                    candidate.encode(pixels)

            def decode(candidate: Candidate = candidate, members: list[Chunks] = members) -> None:
                for member, pixels, out in zip(members, samples, outputs, strict=True):
                    decode_frames(candidate, member, pixels, range(len(pixels)), out)

            def draw(candidate: Candidate = candidate, members: list[Chunks] = members) -> None:
                for member, pixels, frames, out in zip(members, samples, drawn, some, strict=True):
                    decode_frames(candidate, member, pixels, frames, out)

            times[candidate.name].append((seconds(encode), seconds(decode), seconds(draw)))
            for pixels, out, few, frames in zip(samples, outputs, some, drawn, strict=True):
                assert np.array_equal(out, pixels), candidate.name
                assert np.array_equal(few, pixels[frames]), candidate.name
    total = sum(pixels.nbytes for pixels in samples)
    raw_drawn = sum(pixels[:DRAWN].nbytes for pixels in samples)
    raw_decode = statistics.median(draw for _, _, draw in times["npy"])
    rows = []
    for candidate in CANDIDATES:
        members = encoded[candidate.name]
        taken = 0
        for member, frames in zip(members, drawn, strict=True):
            taken += sum(len(member[1 + frame]) for frame in frames) if candidate.by_frame else len(member[0])
        encode_s, decode_s, draw_s = (statistics.median(column) for column in zip(*times[candidate.name], strict=True))
        saved, longer = raw_drawn - taken, draw_s - raw_decode
        rows.append(
            {
                "payload": candidate.name,
                "stock_reader": stock_reader_gives(candidate, members[0], samples[0]),
                "ratio": round(total / sum(len(piece) for member in members for piece in member), 2),
                "encode_gb_s": round(total / encode_s / 1e9, 3),
                "decode_gb_s": round(total / decode_s / 1e9, 3),
                "drawn_16_bytes_share": round(taken / raw_drawn, 3),
                "drawn_16_gb_s": round(raw_drawn / draw_s / 1e9, 3),
                "break_even_mb_s": round(saved / longer / 1e6) if saved > 0 and longer > 0 else None,
            }
        )
    return rows


def bench_payload(output: Path | None = None, rounds: int = 5, samples: int = 8, downloads: Path = Path("downloads")) -> None:
    """Measure ways to store pixels.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds in which all candidates take turns.
        samples: samples of each series.
        downloads: folder that keeps the packages with the real series.
    """
    numcodecs.blosc.use_threads = False  # per core
    results = []
    with tempfile.TemporaryDirectory() as folder:
        fetch_real(Path(folder, "real"), downloads)
        simulate(Path(folder, "simulated"), regions=2, landsat_px=192, sentinel2_px=192)
        series = cut(Path(folder, "real"), {"sentinel2_romania": 96, "landsat_colorado": 60}, samples)
        series |= {f"{name}, simulated": found for name, found in cut(Path(folder, "simulated"), {}, samples).items()}
        for name, found in series.items():
            rows = measure(found, rounds)
            frames = [len(pixels) for pixels in found]
            shape = f"{min(frames)}..{max(frames)} x {' x '.join(map(str, found[0].shape[1:]))} {found[0].dtype}"
            results.append({"series": name, "samples": len(found), "shape": shape, "payloads": rows})
            print(f"\n{name}: {len(found)} samples of {shape}\n{tabulate(rows, headers='keys')}", flush=True)
    write_report(output, ["numpy", "numcodecs"], {"rounds": rounds, "results": results})


if __name__ == "__main__":
    run_command(bench_payload)
