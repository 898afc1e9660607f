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

OF_OPTIMIZER = {
    "DeepSpeedZeroOptimizer": ("optimizer", "step", "averaged_gradients", "_lazy_init_hp_params_optimizer_state"),
    "BF16_Optimizer": (
        "optimizer",
        "step",
        "fp32_groups_flat_partition",
        "fp32_groups_gradient_flat_partition",
        "update_lp_params",
        "clear_hp_grads",
        "_lazy_init_hp_params_optimizer_state",
    ),
    "DeepSpeedZeroOptimizer_Stage3": ("fp16_groups", "fp32_partitioned_groups_flat"),
}
OF_PARAMETER = {1: ("_hp_mapping",), 2: ("_hp_mapping",), 3: ("ds_tensor", "ds_shape", "ds_numel", "partition_numel")}
OF_LINK = ("lp_fragment_address", "hp_fragment")  # `_hp_mapping` of a parameter
OF_PACKAGE = {deepspeed.ops: ("__compatible_ops__",)}
OF_ENGINE = ("optimizer", "get_global_grad_norm", "zero_optimization_stage", "global_rank", "module")


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
            kind, parameter = type(wrapped.optimizer).__name__, next(iter(wrapped.module.parameters()))
            uses.append((f"{place}: {kind}", wrapped.optimizer, OF_OPTIMIZER[kind]))
            uses.append((f"{place}: parameter", parameter, OF_PARAMETER[stage]))
            if stage < 3:
                uses.append((f"{place}: link", parameter._hp_mapping, OF_LINK))
    return [f"{place}.{name}" for place, thing, names in uses for name in names if not hasattr(thing, name)]


if __name__ == "__main__":
    print(json.dumps(missing_names()))
