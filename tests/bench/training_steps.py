"""Steps of pretraining, one for each line that comes: a worker of `compare_revisions.py`, in the checkout on PYTHONPATH.

    python training_steps.py < NAMES

A line is the name of a source. The answer is a line of JSON: the seconds of forward and backward of the student and of the
teacher's forward, and the student's loss, by which two checkouts can be seen to compute the same.
"""

from __future__ import annotations

import copy
import json
import sys
import time

import torch
from torch import nn

from pretrain.model import EncoderConfig, build_encoder
from pretrain.objective.model import FRACTIONS, LandCoverModel

CLASSES, FRAMES = 10, 16
SHAPES = {"sentinel2": (1, 10, 128), "landsat": (2, 6, 64), "modis": (32, 7, 8)}  # samples, bands and pixels along a side


def main() -> None:
    """Answer until the input ends."""
    torch.manual_seed(0)
    sources = {source: bands for source, (_, bands, _) in SHAPES.items()}
    student = LandCoverModel(build_encoder(EncoderConfig(sources=sources, drop_path_rate=0.0)), CLASSES)
    for parameter in student.parameters():  # whatever a checkout begins with
        nn.init.normal_(parameter, std=0.02)
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    pixels = {source: torch.randn(samples, FRAMES, bands, side, side) for source, (samples, bands, side) in SHAPES.items()}
    target = torch.rand(64, CLASSES).softmax(dim=-1)
    for line in sys.stdin:
        source = line.strip()
        student.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        with torch.no_grad():
            taught = teacher(pixels[source], source)[FRACTIONS]
        predicted = student(pixels[source], source)[FRACTIONS]
        loss = (predicted - target[: len(predicted)]).abs().mean() + (predicted - taught).square().mean()
        loss.backward()
        answer = {"seconds": time.perf_counter() - begin, "loss": float(loss.detach())}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
