"""Prints the undocumented names of DeepSpeed that `pretrain/engine.py` uses and the installed version lacks, as a JSON list."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed

from pretrain import engine
from pretrain.config import PretrainConfig
from pretrain.model import build_encoder
from pretrain.objective.model import LandCoverModel
from tests.support.pretraining import ENCODER, ROOT

# By ZeRO stage, those of its optimizer and of the model's parameters.
OF_OPTIMIZER = {
    1: ("optimizer", "_lazy_init_hp_params_optimizer_state"),
    2: ("optimizer", "_lazy_init_hp_params_optimizer_state"),
    3: ("optimizer", "fp32_partitioned_groups_flat"),
}
OF_PARAMETER = {1: ("_hp_mapping",), 2: ("_hp_mapping",), 3: ("ds_tensor",)}
OF_PACKAGE = {deepspeed.ops: ("__compatible_ops__",)}
OF_ENGINE = ("optimizer", "was_step_applied", "get_global_grad_norm", "zero_optimization_stage", "global_rank", "module")


def missing_names() -> list[str]:
    """As `OBJECT.NAME`, with the stage and precision of the run that would lack it."""
    uses: list[tuple[str, Any, tuple[str, ...]]] = [(module.__name__, module, names) for module, names in OF_PACKAGE.items()]
    device = engine.start_ranks()
    engine._create_moments = lambda _: None  # it would end with the first name that is missing
    for stage in (1, 2, 3):
        for precision in ("fp32", "bf16"):
            config = PretrainConfig(data="", output=Path(), zero=ROOT / f"launch/zero{stage}.json", precision=precision)
            model = LandCoverModel(build_encoder(replace(ENCODER, sources={"modis": 7})), 3)
            wrapped = engine.wrap(model, config, 1, device)
            place = f"ZeRO-{stage} {precision}"
            uses.append((f"{place}: engine", wrapped, OF_ENGINE))
            uses.append((f"{place}: {type(wrapped.optimizer).__name__}", wrapped.optimizer, OF_OPTIMIZER[stage]))
            uses.append((f"{place}: parameter", next(iter(wrapped.module.parameters())), OF_PARAMETER[stage]))
    return [f"{place}.{name}" for place, thing, names in uses for name in names if not hasattr(thing, name)]


if __name__ == "__main__":
    print(json.dumps(missing_names()))
