"""How fast a scene is mapped, and how much of the time the model takes.

    python tests/bench/bench_predict.py --output tests/bench/results/predict.json

A scene of Landsat (30 m) and MODIS (480 m) with a cloudy season is read from Zarr and mapped with two encoders: the tiny one of
the quickstart and the full-size one of AgriFM, over fewer windows. The model's share is the time inside its forward pass over
that of `predict_scene`, which also reads, normalises, blends, stores blocks and writes the COG. Random weights cost as much as
trained ones.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.archive.scene import load_scene  # noqa: E402
from data_prep.archive.sensor import load_sensors  # noqa: E402
from finetune.config import TINY_ENCODER  # noqa: E402
from finetune.data.scene_series import SceneSeries  # noqa: E402
from finetune.mapping.scene import MapOptions, predict_scene  # noqa: E402
from finetune.model.crop_mapper import CropMapper  # noqa: E402
from finetune.model.recipe import Recipe  # noqa: E402
from finetune.task import load_task  # noqa: E402
from pretrain.model import EncoderConfig, build_encoder  # noqa: E402
from tests.support.rice_scenes import write_rice_scene  # noqa: E402

SOURCES = {"landsat": 6, "modis": 7}
DETAIL = 16  # what finetune/run.py takes
# name, encoder, width of the decoder, side of the scene in pixels of 30 m
CASES = [("tiny", TINY_ENCODER, 64, 512), ("AgriFM", EncoderConfig(), 256, 256)]


class Timed(torch.nn.Module):
    """A model that adds up the seconds of its forward pass."""

    def __init__(self, model: CropMapper) -> None:
        super().__init__()
        self.model, self.seconds, self.windows = model, 0.0, 0

    def forward(self, data: dict[str, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        begin = time.perf_counter()
        result: torch.Tensor = self.model(data, size)
        if result.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - begin
        self.windows += len(result)
        return result


def measure(name: str, encoder: EncoderConfig, channels: int, side: int, overlap: float, device: torch.device) -> dict[str, Any]:
    """Map one scene once, after a warm-up on a small one."""
    task = load_task("paddy_rice")
    shape = replace(encoder, sources=SOURCES)
    model = Timed(CropMapper(build_encoder(shape), task.sources, task.frames, len(task.classes), channels, DETAIL)).to(device)
    known = load_sensors()
    unit = {source: {"mean": [2000.0] * bands, "std": [1000.0] * bands} for source, bands in SOURCES.items()}
    recipe = Recipe(
        task=task, sensors={source: known[source] for source in SOURCES}, normalization=unit, pixel=30.0,
        encoder=shape.to_dict(), channels=channels, origin="random", detail_channels=DETAIL,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for scene_side in (64, side):
            scene = Path(folder, str(scene_side))
            write_rice_scene(scene, "test", side=scene_side)
            with SceneSeries(load_scene(scene), task, known, pixel_size=30.0) as series:
                model.seconds, model.windows = 0.0, 0
                begin = time.perf_counter()
                predict_scene(model, recipe, series, Path(folder, "map.tif"), device, MapOptions(overlap=overlap))
                total = time.perf_counter() - begin
    area = (side * 0.03) ** 2
    return {
        "encoder": name,
        "parameters_m": round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1),
        "scene_px": side,
        "km2": round(area, 1),
        "windows": model.windows,
        "seconds": round(total, 2),
        "km2_s": round(area / total, 2),
        "windows_s": round(model.windows / total, 2),
        "share_in_model": round(model.seconds / total, 3),
    }


def bench_predict(output: Path | None = None, overlap: float = 0.5, device: str = "cpu") -> None:
    """Measure the speed of prediction.

    Args:
        output: JSON file to write; default: print only.
        overlap: share of a window that its neighbour covers too.
        device: cpu or cuda.
    """
    results = []
    for case in CASES:
        results.append(measure(*case, overlap, torch.device(device)))
        print(results[-1], flush=True)
    settings = {"window_px": 64, "overlap": overlap, "device": device, "threads": torch.get_num_threads()}
    write_report(output, ("torch", "numpy", "rasterio", "zarr"), {"settings": settings, "results": results})


if __name__ == "__main__":
    run_command(bench_predict)
