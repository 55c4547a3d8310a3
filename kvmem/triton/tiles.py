"""Chunks, blocks and warps that the kernels run with: fixed by the shape, or tuned where KVMEM_TRITON_AUTOTUNE=1."""

from __future__ import annotations

import functools
import os

import torch
import triton
import triton.language as tl
from triton.runtime.jit import KernelInterface

from kvmem.triton.arguments import Layer
from kvmem.triton.arithmetic import INTERPRETED

POSITIONS = 128  # an image's chunks are multiples of it, and it is one of every BLOCK_N
MOST_CHUNKS = 128
PROGRAMS_A_MULTIPROCESSOR = 2
TUNED_CHANNELS, TUNED_SLOTS = 64, 64
BLOCK = 64
WIDTH_TIMES_SLOTS = 2048
CONFIGURATIONS = [
    triton.Config({"BLOCK_N": positions}, num_warps=warps, num_stages=stages)
    for positions, warps, stages in (
        (32, 4, 3),
        (64, 4, 2),
        (64, 4, 3),
        (64, 8, 2),
        (128, 4, 2),
        (128, 8, 2),
        (128, 8, 3),
    )
]


def cut_image(batch: int, positions: int, multiprocessors: int) -> tuple[int, int]:
    """chunks and span: how many chunks of how many positions an image is cut into, a program each."""
    blocks = triton.cdiv(positions, POSITIONS)
    chunks = max(1, min(PROGRAMS_A_MULTIPROCESSOR * multiprocessors // max(batch, 1), blocks, MOST_CHUNKS))
    span = triton.cdiv(blocks, chunks) * POSITIONS
    return triton.cdiv(positions, span), span


def make_layer(
    channels: int, memory_channels: int, write_gates: int, response_gates: int, slots: int, chunks: int,
    *, linear_write_gate: bool, relu: bool, dtype: tl.dtype, precision: str,
) -> Layer:  # fmt: skip
    """What the kernels are compiled for: the smallest blocks that hold the slots, and up to BLOCK channels."""
    block_t = triton.next_power_of_2(max(16, slots))
    width = WIDTH_TIMES_SLOTS if response_gates == 1 else WIDTH_TIMES_SLOTS // 2
    return Layer(
        C=channels,
        M=memory_channels,
        G=write_gates,
        R=response_gates,
        LINEAR=linear_write_gate,
        RELU=relu,
        DTYPE=dtype,
        PRECISION=precision,
        TUNED=channels <= TUNED_CHANNELS and block_t <= TUNED_SLOTS,
        CHUNKS=triton.next_power_of_2(chunks),
        GATE_IS_KEY=response_gates == 1 and slots < block_t,
        BLOCK_T=block_t,
        BLOCK_C=min(BLOCK, triton.next_power_of_2(max(16, channels))),
        WIDTH=min(max(16, width // block_t), BLOCK, triton.next_power_of_2(max(16, channels, memory_channels))),
        STEP_M=16,
    )


def tiles(block_n: int | None, warps: int, stages: int = 2) -> dict[str, int]:
    """As Triton takes them: positions at once (None for a kernel that has none), warps and stages of its pipelines."""
    return {**({} if block_n is None else {"BLOCK_N": block_n}), "num_warps": warps, "num_stages": stages}


def fixed_tiles(name: str, layer: Layer) -> dict[str, int]:
    """The tiles of a kernel where nothing is tuned: the largest without spilled registers on compute capability 9.0."""
    scalar, few_slots = layer.R == 1, layer.BLOCK_T <= 32
    if name == "kv_memory_read":
        return _read_tiles(layer, scalar, few_slots)
    if name == "kv_memory_read_backward":
        return _read_backward_tiles(layer, scalar, few_slots)
    if name in ("kv_memory_blocks_backward", "kv_memory_sums_backward"):
        return tiles(32, 8, 1)
    if name in ("kv_memory_write", "kv_memory_parameters_backward"):
        vectors = layer.DTYPE == tl.float32 and layer.G != 1
        return tiles(128, 8 if vectors else 4)
    return tiles(None, 8)


def _read_tiles(layer: Layer, scalar: bool, few_slots: bool) -> dict[str, int]:
    if layer.DTYPE != tl.float32:
        return tiles(128, 8, 3 if few_slots else 2)
    if layer.TUNED:
        return tiles(64, 4, 3 if few_slots else 1) if scalar else tiles(16, 8, 1)
    if scalar:
        return tiles(64 if layer.BLOCK_T <= 64 else 32, 8, 1)
    return tiles(32 if few_slots else 16, 8, 1)


def _read_backward_tiles(layer: Layer, scalar: bool, few_slots: bool) -> dict[str, int]:
    if layer.DTYPE == tl.float32:
        return tiles(16, 4, 2) if layer.TUNED and scalar and few_slots else tiles(16, 8, 1)
    if layer.TUNED:
        return (tiles(64, 4, 3) if layer.GATE_IS_KEY else tiles(64, 8)) if scalar and few_slots else tiles(32, 8)
    return tiles(64, 8) if scalar and layer.BLOCK_T <= 64 else tiles(16, 8, 1)


def precision() -> str:
    """That of products of float32 matrices: AMD's matrix units take them as they are, NVIDIA's in three parts."""
    if INTERPRETED.value:
        return "ieee"
    return "ieee" if triton.runtime.driver.active.get_current_target().backend == "hip" else "tf32x3"


def autotunes() -> bool:
    return os.environ.get("KVMEM_TRITON_AUTOTUNE") == "1"


def prune(configurations: list[triton.Config], arguments: dict, **_: object) -> list[triton.Config]:
    """Those whose block of positions isn't larger than an image, and whose accumulators may stay in registers."""
    sizes, layer = arguments["sizes"], arguments["L"]
    largest = max(32, triton.next_power_of_2(sizes.N))
    width = max(layer.BLOCK_T, layer.BLOCK_C)
    return [
        found
        for found in configurations
        if found.kwargs["BLOCK_N"] <= largest and found.kwargs["BLOCK_N"] * width <= 64 * 32 * found.num_warps
    ]


@functools.cache
def tuned(kernel: KernelInterface) -> KernelInterface:
    return triton.autotune(CONFIGURATIONS, key=["sizes", "L"], prune_configs_by={"early_config_prune": prune})(kernel)


def launch(kernel: KernelInterface, programs: int, *arguments: object, tunable: bool = False) -> None:
    """Runs a kernel, whose last argument is the Layer, with tiles of its own."""
    if programs == 0:
        return
    layer = arguments[-1]
    if tunable and autotunes():
        tuned(kernel)[(programs,)](*arguments)
    else:
        kernel[(programs,)](*arguments, **fixed_tiles(kernel.fn.__name__, layer))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many the device has; the interpreter runs programs one by one, and has work for a few of them only."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
