"""Chunks and blocks that the kernels run with; their tiles are fixed, or tuned where KVMEM_TRITON_AUTOTUNE=1."""

from __future__ import annotations

import functools
import os

import torch
import triton
import triton.language as tl
from triton.runtime.jit import KernelInterface

from kvmem.triton.arguments import Layer
from kvmem.triton.chips import Chip, Tiles, fixed_tiles

POSITIONS = 128  # an image's chunks are multiples of it, and it is one of every BLOCK_N
MOST_CHUNKS = 128
PROGRAMS_A_MULTIPROCESSOR = 2
BLOCK = 64  # channels
TUNED_SLOTS = 32
WIDTH_TIMES_SLOTS = 2048
ROWS = 32  # at most, of an image's memory, that a program takes backward
CANDIDATES = (
    Tiles(16, 4),
    Tiles(16, 8, 1),
    Tiles(32, 4),
    Tiles(32, 8),
    Tiles(64, 4, 3),
    Tiles(64, 8),
    Tiles(128, 4),
    Tiles(128, 8, 3),
)


def cut_image(batch: int, positions: int, multiprocessors: int) -> tuple[int, int]:
    """chunks and span: how many chunks of how many positions an image is cut into, a program each."""
    blocks = triton.cdiv(positions, POSITIONS)
    chunks = max(1, min(PROGRAMS_A_MULTIPROCESSOR * multiprocessors // max(batch, 1), blocks, MOST_CHUNKS))
    span = triton.cdiv(blocks, chunks) * POSITIONS
    return triton.cdiv(positions, span), span


def make_layer(
    channels: int, memory_channels: int, write_gates: int, response_gates: int, slots: int, chunks: int,
    *, linear_write_gate: bool, relu: bool, dtype: tl.dtype, weights: tl.dtype, chip: Chip, precision: str,
) -> Layer:  # fmt: skip
    """What the kernels are compiled for: the smallest blocks that hold the slots, and up to BLOCK channels."""
    block_t = triton.next_power_of_2(max(16, slots))
    width = WIDTH_TIMES_SLOTS if response_gates <= 1 and chip == Chip.HOPPER else WIDTH_TIMES_SLOTS // 2
    width = min(max(16, width // block_t), BLOCK, triton.next_power_of_2(max(16, channels, memory_channels)))
    rows = min(width, ROWS)
    # Elsewhere the registers don't hold what a vector gate's gradients are summed up in.
    gates_are_tuned = response_gates <= 1 or (chip == Chip.HOPPER and dtype != tl.float32)
    return Layer(
        C=channels,
        M=memory_channels,
        G=write_gates,
        R=response_gates,
        LINEAR=linear_write_gate,
        RELU=relu,
        DTYPE=dtype,
        WEIGHTS=weights,
        CHIP=chip,
        PRECISION=precision,
        TUNED=channels <= BLOCK and block_t <= TUNED_SLOTS and gates_are_tuned,
        CHUNKS=triton.next_power_of_2(chunks),
        GATE_IS_KEY=response_gates == 1 and slots < block_t,
        BLOCK_T=block_t,
        BLOCK_C=min(BLOCK, triton.next_power_of_2(max(16, channels))),
        WIDTH=width,
        STEP_M=16,
        ROWS=rows,
        GATE_ROWS=triton.cdiv(memory_channels, rows) if write_gates == 1 else write_gates,
    )


def backward_layer(layer: Layer) -> Layer:
    """The layer with the blocks of channels that `kv_memory_blocks_backward` has registers for."""
    if layer.DTYPE != tl.float32 or layer.R == 1:
        return layer
    # Few slots are fewer columns than eight warps share out: what they multiply, each of them holds.
    return layer._replace(BLOCK_C=min(layer.BLOCK_C, {16: 32, 128: 16}.get(layer.BLOCK_T, BLOCK)))


def autotunes() -> bool:
    return os.environ.get("KVMEM_TRITON_AUTOTUNE") == "1"


def candidates(name: str, layer: Layer, positions: int) -> list[Tiles]:
    """What a kernel may be tuned to: the fixed tiles, and others that aren't larger than an image or its registers."""
    fixed = fixed_tiles(name, layer)
    smallest, largest = (16, 64) if layer.DTYPE == tl.float32 else (32, 128)
    largest = max(smallest, min(largest, triton.next_power_of_2(positions)))
    slots = max(layer.BLOCK_T, layer.BLOCK_C)
    others = [
        tiles
        for tiles in CANDIDATES
        if smallest <= tiles.positions <= largest and tiles.positions * slots <= 64 * 32 * tiles.warps
    ]
    return [fixed, *(tiles for tiles in others if tiles != fixed)]


@functools.cache
def tuned(kernel: KernelInterface) -> KernelInterface:
    def prune(_: list[triton.Config], arguments: dict, **__: object) -> list[triton.Config]:
        found = candidates(kernel.fn.__name__, arguments["L"], arguments["sizes"].N)
        return [configuration(tiles) for tiles in found]

    def configuration(tiles: Tiles) -> triton.Config:
        return triton.Config({"BLOCK_N": tiles.positions}, num_warps=tiles.warps, num_stages=tiles.stages)

    every = [configuration(tiles) for tiles in CANDIDATES]
    return triton.autotune(every, key=["sizes", "L"], prune_configs_by={"early_config_prune": prune})(kernel)


def launch(kernel: KernelInterface, programs: int, *arguments: object, tunable: bool = False) -> None:
    """Runs a kernel, whose last argument is the Layer, with tiles of its own."""
    if programs == 0:
        return
    if tunable and autotunes():
        tuned(kernel)[(programs,)](*arguments)
    else:
        kernel[(programs,)](*arguments, **fixed_tiles(kernel.fn.__name__, arguments[-1]).settings())


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many the device has; the interpreter runs programs one by one, and has work for a few of them only."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
