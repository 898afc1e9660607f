"""Command: scenes -> corpus. Plan, write, verify, describe; start it again with the same arguments and it goes on.

python data_prep/shard.py --input scenes/ --output corpus/ [--workers N] [--chip_px.sentinel2 32]
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from data_prep.command import run_command
from data_prep.corpus import DATASET, read_json
from data_prep.description import REJECTED, describe, rejected_lines, summary
from data_prep.durable import TEMPORARY, json_bytes, whole_file
from data_prep.engines import map_dask, map_local
from data_prep.plan import Plan, plan_table
from data_prep.planning import PlanSettings, make_plan
from data_prep.shards import is_written, write_shard
from data_prep.splits import split_blocks_of
from data_prep.verify import index_paths, verify_shards


def shard(
    input: Path,
    output: Path,
    workers: int = 1,
    sources: list[str] | str | None = None,
    chip_px: dict[str, int] | None = None,
    shard_mb: float = 256.0,
    min_frames: int = 16,
    sites: Path | None = None,
    split_block_km: float | None = None,
    split_shares: dict[str, float] | None = None,
    split_buffer_km: float = 0.0,
    split_seed: int = 0,
    plan_only: bool = False,
    engine: Literal["local", "dask"] = "local",
    scheduler: str | None = None,
) -> None:
    """Cut scenes into samples and write them as WebDataset shards with indexes, checksums and statistics.

    Args:
        input: folder with scenes (SCENE/scene.yaml each), or one scene.
        output: folder of the corpus; new, or one that the same arguments began.
        workers: processes that write at the same time.
        sources: only these sources, as a list or separated by commas; default: all that the scenes hold.
        chip_px: side of a sample in pixels, by source (--chip_px.landsat 32); default: the sensors' own.
        shard_mb: size of a shard in megabytes (1e6 bytes), about.
        min_frames: samples with fewer dates in the year are rejected.
        sites: CSV or Parquet table of places where samples are cut (columns id, lon, lat, and if wanted year, source, split;
            draw_sites.py draws one); default: all windows of each scene.
        split_block_km: split by place: side in kilometres of the blocks that go to one split as a whole; default: as the
            scenes say.
        split_shares: share of the blocks of each split (--split_shares.test 0.2); default: train 0.8, validation 0.1, test 0.1.
        split_buffer_km: leave out samples nearer than this to a block of another split; at most half a block.
        split_seed: another seed is another draw of the blocks.
        plan_only: write the plan, say what is in it, and stop; started without it, the command goes on from there.
        engine: local processes, or a Dask cluster.
        scheduler: address of a running Dask scheduler; without it the dask engine starts a local cluster.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if scheduler is not None and engine != "dask":
        raise ValueError("--scheduler is of use only with --engine dask")
    wanted = sources.split(",") if isinstance(sources, str) else sources
    settings = PlanSettings(
        sources=None if wanted is None else tuple(wanted),
        chip_px=chip_px or {},
        shard_mb=shard_mb,
        min_frames=min_frames,
        sites=sites,
        split_blocks=split_blocks_of(split_block_km, split_shares, split_buffer_km, split_seed),
    )
    plan = make_plan(input, output, settings, workers)
    if plan_only:
        print(plan_table(plan))
        return
    for leftover in output.glob(f".*{TEMPORARY}"):  # of a run that was killed
        leftover.unlink(missing_ok=True)
    function = partial(write_shard, input.resolve(), output.resolve())
    todo = [number for number, name in enumerate(plan.names) if not is_written(plan, name, output)]
    done = map_dask(function, todo, workers, scheduler) if engine == "dask" else map_local(function, todo, workers)
    with tqdm(desc="write", unit="shard", total=plan.num_shards, initial=plan.num_shards - len(todo)) as bar:
        written = 0
        for _, size in done:
            written += size
            bar.set_postfix(MB=f"{written / 1e6:.0f}", refresh=False)
            bar.update()
    finish(plan, output, workers)


def finish(plan: Plan, output: Path, workers: int) -> None:
    """Verify all shards, then say what they are. Raises ValueError when one is damaged, or when nothing was written."""
    faults = [fault for found in verify_shards(output, plan, workers) for fault in found]
    if faults:
        damaged = sorted({Path(fault.file).stem for fault in faults})
        raise ValueError(f"{len(faults)} faults, first {faults[0]}; remove {', '.join(damaged[:3])}.* and start again")
    indexes = [read_json(path) for path in index_paths(output, plan)]
    with whole_file(output / REJECTED) as temporary, temporary.open("wb") as file:
        file.writelines(rejected_lines(plan, indexes))
    print(summary(plan, indexes))
    if not any(index["samples"] for index in indexes):
        raise ValueError(f"every sample was rejected; the reasons are in {output / REJECTED}")
    with whole_file(output / DATASET) as temporary:
        temporary.write_bytes(json_bytes(describe(plan, output, indexes)))
    print(f"{output / DATASET} describes the corpus")


if __name__ == "__main__":
    run_command(shard)
