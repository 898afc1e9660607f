"""Runs of shard.py disturbed at twenty random moments, each started again with the same arguments: are the bytes the same?

    python tests/bench/kill_shard.py --output tests/bench/results/kill_shard.json

In turn: kill -9 of the run and its workers, of the run alone, of a worker; SIGTERM; a full disk (a small tmpfs where this user
may mount one, else a limit on the size of files); a Dask scheduler that goes away; a Dask worker that dies. The moment is
uniform over the time of an undisturbed run, planning and verification included. What bears a final name right after the
disturbance must be a file of the undisturbed corpus, whole; after the second run all must be.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from tests.support.archives import write_archive  # noqa: E402
from tests.support.interruptions import DISTURBANCES, contents, start  # noqa: E402

FULL_DISK = "full disk"
SMALL = ("--chip_px.sentinel2", "6", "--chip_px.modis", "3", "--shard_mb", "0.02")  # many small shards
KINDS = [*DISTURBANCES, FULL_DISK]


def waiter(seconds: float, begin: float) -> Any:
    def wait(process: subprocess.Popen[bytes]) -> None:
        while time.monotonic() < begin + seconds and process.poll() is None:
            time.sleep(0.002)

    return wait


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A tmpfs of `size` bytes at `folder`, or None where this user may not mount one."""
    folder.mkdir()
    if os.geteuid() != 0:
        yield None
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)


Files = dict[str, bytes]


def fill_disk(arguments: Sequence[str], place: Path, whole: Files, share: float) -> tuple[Files, Files, int, str]:
    """Files after a run on a disk that holds `share` of the corpus, and after another one on a large disk; code, means."""
    total = sum(-(-len(data) // 4096) * 4096 for data in whole.values())
    with small_disk(place, max(200_000, int(share * total))) as disk:
        if disk is None:
            largest = max(map(len, whole.values()))
            code = start([*arguments, "--output", str(place / "corpus")], file_limit=int(share * largest)).wait()
            means = "limit on the size of files"
        else:
            code = start([*arguments, "--output", str(place / "corpus")]).wait()
            means = "tmpfs"
        between = contents(place / "corpus") if (place / "corpus").exists() else {}
        if disk is not None:
            subprocess.run(["mount", "-o", f"remount,size={4 * total}", str(disk)], check=True)
        again = start([*arguments, "--output", str(place / "corpus")]).wait()
        assert again == 0
        return between, contents(place / "corpus"), code, means


def kill_shard(output: Path | None = None, moments: int = 20, seed: int = 0) -> int:
    """Disturb runs and compare their corpora with that of an undisturbed one.

    Args:
        output: JSON file to write; default: print only.
        moments: number of disturbed runs.
        seed: of the moments.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder / "scenes")
        arguments = ["--input", str(folder / "scenes"), *SMALL, "--workers", "2"]
        begin = time.monotonic()
        assert start([*arguments, "--output", str(folder / "whole")]).wait() == 0
        duration = time.monotonic() - begin
        whole = contents(folder / "whole")
        shards = sum(file.endswith(".tar") for file in whole)
        print(f"undisturbed: {shards} shards in {duration:.1f} s")
        for number in range(moments):
            kind, moment = KINDS[number % len(KINDS)], rng.random()
            place = folder / f"run-{number}"
            row: dict[str, Any] = {"disturbance": kind, "moment": round(moment, 3)}
            if kind == FULL_DISK:
                between, after, code, row["means"] = fill_disk(arguments, place, whole, moment)
            else:
                place.mkdir()
                run = [*arguments, "--output", str(place / "corpus")]
                code = DISTURBANCES[kind](run, waiter(moment * duration, time.monotonic()))
                between = contents(place / "corpus") if (place / "corpus").exists() else {}
                assert start(run).wait() == 0
                after = contents(place / "corpus")
            final = {file: data for file, data in between.items() if not file.endswith(".tmp")}
            row |= {
                "exit": code,
                "shards_then": sum(file.endswith(".tar") for file in final),
                "finished_then": "dataset.json" in final,
                "whole_then": all(whole.get(file) == data for file, data in final.items()),
                "same_bytes_at_the_end": after == whole,
            }
            rows.append(row)
            print(row, flush=True)
    sound = all(row["whole_then"] and row["same_bytes_at_the_end"] for row in rows)
    content = {
        "shards": shards,
        "undisturbed_s": round(duration, 2),
        "disturbed_runs": len(rows),
        "same_bytes": sum(row["same_bytes_at_the_end"] for row in rows),
        "unfinished_when_disturbed": sum(not row["finished_then"] for row in rows),
        "runs": rows,
    }
    write_report(output, [], content)
    print(f"{content['same_bytes']} of {len(rows)} corpora are byte for byte that of the undisturbed run")
    return 0 if sound else 1


if __name__ == "__main__":
    run_command(kill_shard)
