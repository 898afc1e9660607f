"""Compile the attention kernels for GPUs that are not there, and read what the machine code takes.

    python -m tests.support.compiled_kernels [ARCHITECTURE ...]

Prints a JSON line for each kernel, architecture, number type and kind of window: registers of a thread, bytes of its stack (which
spilled registers take), shared memory of a program, threads, and how many programs an SM holds by these.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pretrain.model.attention import cuda, cuda_bias

ARCHITECTURES = (80, 90, 100)
# Tokens of a window of the published model (8, 7, 7) on maps of 16, 8, 4 and 2 frames.
WINDOWS = (392, 196, 98, 49)
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
POINTERS_TO_NUMBERS = {"qkv", "padding", "bias", "out", "grad", "grad_qkv", "table", "grad_table"}
FLOATS = {"lse", "delta", "of_padding", "grad_bias", "grad_padding"}
POINTERS_TO_INDICES = {"places", "windows", "groups", "pairs", "queries", "padding_pairs", "uses", "first_use"}
REGISTERS, SHARED, THREADS = 65_536, {80: 167_936, 90: 233_472, 100: 233_472}, 2_048  # of an SM


def compiled(kernel: Any, architecture: int, number: str, tokens: int) -> Any:
    """A kernel for windows of so many tokens."""
    constants = cuda.constants(kernel, 32, TYPES[number])
    constants |= {"TILES": triton.cdiv(tokens, constants["TILE"]), "ROUNDS": 128, "SLICES": cuda.SLICES}
    constants |= {"NUMBERS": cuda_bias.NUMBERS, "QUERIES": cuda_bias.QUERIES, "USES": cuda_bias.USES}
    constants |= {"PADDING": cuda_bias.PADDING, "MOST_PADDING": tokens}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: _type(name, number) for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in ("channels", "bias_size")
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = cuda_bias.OPTIONS if kernel in cuda_bias.KERNELS else cuda.OPTIONS
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def _type(name: str, number: str) -> str:
    if name in POINTERS_TO_NUMBERS:
        return f"*{number}"
    if name in POINTERS_TO_INDICES:
        return "*i32"
    if name in FLOATS:
        return "*fp32"
    return "fp32" if name == "scale" else "i32"


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, bytes of its stack, and bytes of static shared memory, as NVIDIA's cuobjdump says."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}


def rows(architectures: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for kernel in (*cuda.KERNELS, *cuda_bias.KERNELS):
        for architecture in architectures:
            for number in TYPES:
                for tokens in WINDOWS:
                    made = compiled(kernel, architecture, number, tokens)
                    taken = resources(made.asm["cubin"])
                    threads, shared = 32 * made.metadata.num_warps, made.metadata.shared
                    by_shared = SHARED[architecture] // (shared + 1024)
                    yield {
                        "kernel": kernel.__name__.lstrip("_"),
                        "architecture": architecture,
                        "type": number,
                        "tokens": tokens,
                        "registers": taken["REG"],
                        "stack": taken["STACK"],
                        "shared": shared,
                        "threads": threads,
                        "programs_on_an_sm": min(REGISTERS // (taken["REG"] * threads), by_shared, THREADS // threads),
                    }


if __name__ == "__main__":
    for row in rows(tuple(map(int, sys.argv[1:])) or ARCHITECTURES):
        print(json.dumps(row), flush=True)
