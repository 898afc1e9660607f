"""How fast a chunk group of images on a web server is read: by ours, in turn and at the same time, and by GDAL's /vsicurl.

    python tests/bench/bench_urls.py --output tests/bench/results/urls.json

The server is one of this process, and each of its answers is `delay_ms` late, as those of a storage in the same region. There are
HLS L30 images of 16 dates, 7 COGs each. Ours opens them through fsspec, with the tries, time limits, signatures and errors of
`common/storage.py`; `in_turn` reads one image after the other, `at_once` as many at a time as the readers do. `vsicurl` is bare:
rasterio opens and reads the same windows of the same files with GDAL's own client, in turn and in as many threads, without tries.

Each round opens everything anew, once for each variant, in turn. `requests` are those of one round.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

sys.path[:0] = [str(Path(__file__).parents[2])]

from bench_archive import SENSORS, write_hls_archive  # noqa: E402
from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from common.rasters import GDAL_SETTINGS  # noqa: E402
from common.threads import in_threads  # noqa: E402
from data_prep.readers.image_series import AT_ONCE, ImageSeries  # noqa: E402
from data_prep.readers.opening import open_reader  # noqa: E402
from tests.support.series import scene  # noqa: E402
from tests.support.web_server import web_server  # noqa: E402

SIDE_PX = 256  # of the chunk group: a block of HLS


def ours(url: str, _: list[str], options: dict[str, Any], at_once: int) -> np.ndarray:
    """The pixels (T, C, H, W) of the chunk group, as our readers read them."""
    described = scene(Path("nowhere"), "landsat", **(options | {"path": url}))
    with open_reader(described, "landsat", SENSORS) as reader:
        assert isinstance(reader, ImageSeries), reader
        reader._at_once = at_once
        return reader.read(0, 0, SIDE_PX, SIDE_PX, slice(None)).pixels


def vsicurl(url: str, names: list[str], _: dict[str, Any], at_once: int) -> np.ndarray:
    """The window of each file, as GDAL reads it alone."""

    def read(name: str) -> np.ndarray:
        with rasterio.Env(**GDAL_SETTINGS), rasterio.open(f"/vsicurl/{url}/{name}") as dataset:
            return np.asarray(dataset.read(1, window=Window(0, 0, SIDE_PX, SIDE_PX))).astype(np.int16)

    return np.stack(in_threads(read, names, at_once))


VARIANTS: dict[str, Callable[[str, list[str], dict[str, Any]], np.ndarray]] = {
    "in_turn": partial(ours, at_once=1),
    "at_once": partial(ours, at_once=AT_ONCE),
    "vsicurl_in_turn": partial(vsicurl, at_once=1),
    "vsicurl_at_once": partial(vsicurl, at_once=AT_ONCE),
}


def bench_urls(output: Path | None = None, rounds: int = 5, delay_ms: float = 30, side: int = 3660) -> None:
    """Measure reading at URLs.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds in which variants take turns.
        delay_ms: by which each answer is late.
        side: pixels of an image.
    """
    requests: Counter[str] = Counter()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place, web_server() as serve:
        (options,) = write_hls_archive(Path(place), 3 * side).values()
        names = sorted(path.name for path in Path(place, options["path"]).iterdir())
        for turn in range(rounds + 1):  # the first only imports and compares
            found = []
            for name, read in VARIANTS.items():

                def late(_: object, name: str = name) -> float:
                    requests[name] += 1
                    return delay_ms / 1e3

                url = f"{serve(Path(place), late)}/{options['path']}"  # a new port, so that nothing is cached
                begin = time.perf_counter()
                found.append(read(url, names, options))
                seconds.setdefault(name, []).append(time.perf_counter() - begin)
            if not turn:
                requests.clear()
                seconds.clear()
            np.testing.assert_array_equal(found[0], found[1])
            np.testing.assert_array_equal(found[2], found[3])
    result = {name: {"s": round(statistics.median(of), 2), "requests": requests[name] // rounds} for name, of in seconds.items()}
    times_faster = {
        f"at_once, against {other}": round(statistics.median(b / a for a, b in zip(seconds["at_once"], of, strict=True)), 2)
        for other, of in seconds.items()
        if other != "at_once"
    }
    content = {"rounds": rounds, "delay_ms": delay_ms, "side": side, "threads": AT_ONCE, "times_faster": times_faster, **result}
    print(json.dumps(content, indent=1))
    write_report(output, ["rasterio", "fsspec", "aiohttp"], content)


if __name__ == "__main__":
    run_command(bench_urls)
