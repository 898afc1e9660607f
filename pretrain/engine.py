"""The DeepSpeed engine around the model, with ZeRO. This is the only file that imports deepspeed."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from common import ranks
from pretrain.config import OptimizerConfig, PretrainConfig, read_zero_json
from pretrain.model.patch_merging import PatchMerging
from pretrain.model.video_swin import Block
from pretrain.model.weight_decay import has_weight_decay
from pretrain.model.weight_shards import WeightShards
from pretrain.objective.model import LandCoverModel

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, by PyTorch's names

# DeepSpeed chooses the kind of device when it is imported; without a GPU it must not look for one.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore", message=".*deprecated. Please use `torch.distributed", category=FutureWarning
)  # DeepSpeed's calls


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard stderr of this process and of its children for a while. Exceptions still come through."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _uncompiled(function: Any = None, **_options: Any) -> Any:
    """Take the place of `torch.compile`, and compile nothing."""
    return function or _uncompiled


# On import DeepSpeed asks the linker which of its operators can be built, and the linker prints an error for each that cannot.
# It decorates functions of its Muon optimizer, which is not used here, by `torch.compile`, which would load PyTorch's compiler:
# two seconds in each rank.
with _quiet_stderr(), mock.patch("torch.compile", _uncompiled):
    import deepspeed
    import deepspeed.runtime.zero.muon.muon_optimizer
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_full_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
        set_z3_leaf_modules,
    )
if not torch.cuda.is_available():
    # For CPU ranks DeepSpeed would compile a shared-memory all-reduce at the first start, which takes a minute and fails without
    # a C++ compiler. CPU ranks are for trying things out, so gloo is fast enough.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def start_ranks() -> torch.device:
    """Join the process group by DeepSpeed, and return the device of this rank; see `common.ranks.start_ranks`."""
    return ranks.start_ranks(lambda backend: deepspeed.init_distributed(dist_backend=backend, verbose=False))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with weight decay, then those without (`has_weight_decay`)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (decayed if has_weight_decay(name, parameter) else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over two groups of parameters, with and without weight decay.

    It is fused, on CPUs, too: the fused kernel skips a step and clips the gradient by tensors on the device.
    """
    groups = _parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def wrap(model: LandCoverModel, config: PretrainConfig, micro_batches: int, device: torch.device) -> Any:
    """The DeepSpeed engine: ZeRO by `config.zero`; gradients are averaged over ranks and `micro_batches`, and clipped.

    Its step is skipped on all ranks when the gradient is not finite; then `get_global_grad_norm()` is not finite either. With
    ZeRO 1 and 2 the device decides that, and the host never waits for it in forward pass, backward pass and step. Elsewhere
    DeepSpeed decides, and waits: with an offloaded optimizer, as the gradient must come to the CPU; with ZeRO-3 once in each
    step, to read the norm, once after each backward pass, until the gradients are reduced, and before weights are fetched, while
    too many are on their way. With `overlap_comm` ZeRO 2 waits, too, before each bucket of gradients.

    Raises ValueError when the JSON is unreadable or sets something that the run's own configuration decides.
    """
    settings = read_zero_json(config.zero)
    zero, clipping = settings["zero_optimization"], config.optimizer.gradient_clipping
    device_decides = zero["stage"] < 3 and zero.get("offload_optimizer", {}).get("device", "none") == "none"
    if device_decides and not (zero["stage"] == 1 and config.precision == "bf16"):  # that optimizer has no such option
        zero["compute_grad_norm"] = False
    settings |= {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed uses it only in its reports; the stream makes the batches
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": 0.0 if device_decides else clipping,
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": not device_decides},
        # A sum of many micro-batches in bf16 loses those that are small against it.
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 1_000_000_000,
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice in each micro-step
        "zero_allow_untested_optimizer": True,
        # For an offloaded optimizer DeepSpeed prefers its own Adam, which it compiles at the first start; PyTorch's fused Adam
        # runs on CPUs, too.
        "zero_force_ds_cpu_optimizer": False,
    }
    # ZeRO-3 fetches a layer's weights when the layer is called. These modules give the weights of their layers to operators
    # without calling the layers, so ZeRO-3 must fetch the weights of a whole block or merging at a time.
    set_z3_leaf_modules(model, [Block, PatchMerging])
    optimizer = adamw(model, config.optimizer)
    engine, *_ = deepspeed.initialize(model=model.to(device), optimizer=optimizer, config=settings)
    _create_moments(engine)
    if device_decides:
        _let_device_decide(engine.optimizer, clipping)
    elif zero["stage"] < 3:
        _forget_skipped_gradients(engine.optimizer)
    return engine


def backward(engine: Any, loss: torch.Tensor) -> None:
    """Add up the gradient of a rank's loss. A loss that is not finite makes it NaN, so that all ranks skip the step."""
    engine.backward(loss * (1 + 0 * loss.detach()))  # times 1, or times NaN


def _let_device_decide(zero: Any, clipping: float) -> None:
    """Replace the step of a ZeRO optimizer by one that does not read the norm of the gradient.

    Fused AdamW gets two tensors on the device: if `found_inf` is 1, weights, moments and the number of steps stay as they are;
    the gradient is divided by `grad_scale`.
    """
    adam, is_bf16 = zero.optimizer, isinstance(zero, BF16_Optimizer)
    step_of_zero = zero.step

    def step() -> None:
        pieces = zero.fp32_groups_gradient_flat_partition if is_bf16 else [*chain(*zero.averaged_gradients.values())]
        norm = _norm_over_ranks(pieces)
        adam.found_inf = norm.isfinite().logical_not().float()
        adam.grad_scale = ((norm + 1e-6) / clipping).clamp_min(1) if clipping else None
        if is_bf16:  # its own step does nothing else, but waits for three results
            for weights, gradient in zip(zero.fp32_groups_flat_partition, pieces, strict=True):
                weights.grad = gradient
            adam.step()
            zero.update_lp_params()
            zero.clear_hp_grads()
        else:
            step_of_zero()
        zero._global_grad_norm = norm

    zero.step = torch.no_grad()(step)


def _forget_skipped_gradients(zero: Any) -> None:
    """Let a ZeRO optimizer that is offloaded forget the gradient of a step that it skips.

    DeepSpeed 0.19.8 would add all later ones to it, so that no step would be taken any more.
    """
    step_of_zero = zero.step

    def step() -> None:
        step_of_zero()
        if zero.overflow:
            zero.averaged_gradients.clear()

    zero.step = step


def _norm_over_ranks(pieces: list[torch.Tensor]) -> torch.Tensor:
    """Norm of a gradient of which each rank holds pieces, a scalar on the device."""
    return ranks.sum_over_ranks(torch.stack(torch._foreach_norm(pieces)).square().sum()).sqrt()


def _create_moments(engine: Any) -> None:
    """Create AdamW's state after 0 steps, which it would create in its first step.

    A resumed run has moments before that, and a run whose first step was skipped is saved without it.
    """
    zero, adam = engine.optimizer, engine.optimizer.optimizer
    is_stage3 = engine.zero_optimization_stage() == 3
    # DeepSpeed gives AdamW flat pieces of the fp32 weights instead of parameters.
    pieces = zero.fp32_partitioned_groups_flat if is_stage3 else [p for group in adam.param_groups for p in group["params"]]
    for piece in pieces:
        adam.state[piece] = {"step": torch.zeros((), device=piece.device), **{m: torch.zeros_like(piece) for m in MOMENTS}}
    if not is_stage3:
        zero._lazy_init_hp_params_optimizer_state()  # links each parameter to its moments in the flat pieces


def master_weights(engine: Any) -> WeightShards:
    """The fp32 weights that the optimizer updates: this rank's pieces, which all stages of ZeRO shard over the ranks."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    pieces: dict[str, tuple[int, torch.Tensor]] = {}
    if engine.zero_optimization_stage() == 3:
        shapes = {name: parameter.ds_shape for parameter, name in names.items()}
        zero = engine.optimizer
        for group, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
            # Each parameter is divided into equal pieces; the last ones are padded.
            for parameter, padded in zip(group, flat.detach().split([p.partition_numel() for p in group]), strict=True):
                place = dist.get_rank() * padded.numel()
                piece = padded[: max(0, parameter.ds_numel - place)]
                if piece.numel():
                    pieces[names[parameter]] = place, piece
    else:
        shapes = {name: parameter.shape for parameter, name in names.items()}
        for parameter, name in names.items():
            if (link := parameter._hp_mapping) is not None:
                pieces[name] = link.lp_fragment_address.start, link.hp_fragment.detach()
    return WeightShards(shapes, pieces)


def gather_state(engine: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The whole fp32 weights by name, and AdamW's moments as `exp_avg/NAME` and `exp_avg_sq/NAME`, on the CPU of rank 0.

    Other ranks get empty dictionaries. Every rank calls this.
    """
    weights: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        of_weight = safe_get_full_fp32_param(parameter)
        of_moments = {moment: safe_get_full_optimizer_state(parameter, moment) for moment in MOMENTS}
        if engine.global_rank == 0:
            weights[name] = of_weight.cpu()
            moments |= {f"{moment}/{name}": value.cpu() for moment, value in of_moments.items()}
    return weights, moments


def restore_state(engine: Any, steps: int, weights: Mapping[str, torch.Tensor], moments: Mapping[str, torch.Tensor]) -> None:
    """Put the state that `gather_state` gave after `steps` steps of AdamW, without the skipped ones, into a new engine.

    The engine may have any number of ranks and any ZeRO stage. Its model must have had these weights when the engine was made,
    because the engine made the bf16 copies from them.
    """
    for state in engine.optimizer.optimizer.state.values():
        state["step"].fill_(steps)
    for name, parameter in engine.module.named_parameters():
        of_moments = {moment: moments[f"{moment}/{name}"] for moment in MOMENTS}
        if engine.zero_optimization_stage() == 3:
            safe_set_local_fp32_param(parameter, _share(weights[name], parameter))
            for moment, value in of_moments.items():
                safe_set_local_optimizer_state(parameter, _share(value, parameter), moment)
        else:
            safe_set_full_fp32_param(parameter, weights[name])
            for moment, value in of_moments.items():
                safe_set_full_optimizer_state(parameter, value, moment)


def _share(whole: torch.Tensor, parameter: Any) -> torch.Tensor:
    """This rank's piece of a tensor in ZeRO-3: pieces are equal, the last one is padded with zeros.

    DeepSpeed's own setter of whole tensors fails when the last piece reaches beyond the end of the tensor.
    """
    size = parameter.ds_tensor.numel()
    padded = torch.zeros(size * dist.get_world_size())
    padded[: whole.numel()] = whole.flatten()
    return padded[dist.get_rank() * size :][:size]
