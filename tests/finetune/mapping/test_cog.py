"""Maps as Cloud-Optimised GeoTIFF: overviews, and blocks in any order."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rio_cogeo import cog_validate

from common.grid import Grid
from finetune.mapping.cog import NO_DATA, write_classes
from finetune.mapping.tiling import Tiling
from finetune.task import load_task


def test_overviews_are_by_the_mode_and_blocks_may_come_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 1, NO_DATA], (25, 25)).astype(np.uint8).repeat(64, axis=0).repeat(64, axis=1)[:1600, :1560]
    noisy = classes.copy()
    known = classes[::4, ::4] != NO_DATA
    noisy[::4, ::4][known] = 1  # one pixel of sixteen, which the mode passes over
    tiling = Tiling(height=1600, width=1560, window=64, stride=32, step=1, block=300)
    grid = Grid(crs="EPSG:32631", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), height=1600, width=1560)
    blocks = [(b, noisy[b.row : b.row + b.height, b.col : b.col + b.width]) for b in tiling.blocks]
    for name in ("map.tif", "again.tif"):
        write_classes(tmp_path / name, tmp_path, grid, load_task("paddy_rice"), blocks, {})
        rng.shuffle(blocks)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path)) == ["again.tif", "again.tif.aux.xml", "map.tif", "map.tif.aux.xml"]
    assert cog_validate(tmp_path / "map.tif", strict=True) == (True, [], [])
    for name in ("map.tif", "again.tif"):
        with rasterio.open(tmp_path / name) as found:
            assert found.overviews(1) == [2, 4]
            np.testing.assert_array_equal(found.read(1), noisy)
    with rasterio.open(tmp_path / "map.tif", overview_level=1) as found:
        np.testing.assert_array_equal(found.read(1), classes[1::4, 1::4])


def test_a_full_disk_is_an_error_at_every_moment(tmp_path: Path) -> None:
    """GDAL says of some writes only that a later read failed, and of the last ones nothing."""
    classes = np.random.default_rng(0).integers(0, 2, (1024, 1024)).astype(np.uint8)
    tiling = Tiling(height=1024, width=1024, window=64, stride=32, step=1, block=1024)
    grid = Grid(crs="EPSG:32631", transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), height=1024, width=1024)
    size = 0
    for share in (None, 0.01, 0.3, 0.6, 0.9, 0.99):
        limit = resource.RLIM_INFINITY if share is None else round(share * size)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            if share is None:
                write_classes(tmp_path / "map.tif", tmp_path, grid, load_task("paddy_rice"), [(tiling.blocks[0], classes)], {})
                size = (tmp_path / "map.tif").stat().st_size
            else:
                with pytest.raises(OSError, match=r"failed|too large|cannot be made|Read"):
                    write_classes(
                        tmp_path / "full.tif", tmp_path, grid, load_task("paddy_rice"), [(tiling.blocks[0], classes)], {}
                    )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not (tmp_path / "full.tif").exists()
