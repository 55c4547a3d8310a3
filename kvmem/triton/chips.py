"""The tiles of each kind of chip: for every kernel the largest that leave its registers in registers.

They were read off what Triton 3.9 compiles for compute capabilities 9.0 and 8.0 and for gfx942 (docs/performance.md).
Shared memory stays below what the smallest chip of a kind has, which is 99 KiB of NVIDIA's.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from kvmem.triton.arguments import Chip, Layer
from kvmem.triton.arithmetic import INTERPRETED

READ, READ_BACKWARD = "kv_memory_read", "kv_memory_read_backward"
WRITE_BACKWARD = "kv_memory_write_backward"
BLOCKS, SUMS = "kv_memory_blocks_backward", "kv_memory_sums_backward"


class Tiles(NamedTuple):
    """Positions at once (None in a kernel that has none), warps, and stages of its pipelines."""

    positions: int | None
    warps: int
    stages: int = 2

    def settings(self) -> dict[str, int]:
        """As a kernel takes them."""
        block = {} if self.positions is None else {"BLOCK_N": self.positions}
        return {**block, "num_warps": self.warps, "num_stages": self.stages}


def chip_and_precision() -> tuple[Chip, str]:
    """Of the current device, and of products of float32 matrices there: NVIDIA's matrix units take them in three parts.

    The interpreter has no registers: it runs what Hopper does.
    """
    if INTERPRETED.value:
        return Chip.HOPPER, "ieee"
    target = triton.runtime.driver.active.get_current_target()
    if target.backend == "hip":
        return Chip.WARPS_OF_64 if target.warp_size == 64 else Chip.WARPS_OF_32, "ieee"
    return Chip.HOPPER if target.arch // 10 == 9 else Chip.WARPS_OF_32, "tf32x3"


def fixed_tiles(name: str, layer: Layer) -> Tiles:
    """The tiles of a kernel where nothing is tuned."""
    if name in ("kv_memory_write", "kv_memory_parameters_backward"):
        many = layer.WEIGHTS == tl.float32 and (layer.G != 1 or layer.CHIP == Chip.WARPS_OF_32)
        return Tiles(128, 8 if many else 4)
    if name not in (READ, READ_BACKWARD, BLOCKS, SUMS):
        # More warps would hold much of a block of ROWS twice, and leave room for one program a multiprocessor; on AMD's
        # chips fewer would go without matrix units.
        few = name == WRITE_BACKWARD and layer.TUNED and layer.CHIP != Chip.WARPS_OF_64
        return Tiles(None, 4 if few else 8)
    rules = {
        Chip.HOPPER: (_hopper16, _hopper32),
        Chip.WARPS_OF_32: (_warps_of_32_16, _warps_of_32_32),
        Chip.WARPS_OF_64: (_warps_of_64_16, _warps_of_64_32),
    }
    return rules[layer.CHIP][layer.DTYPE == tl.float32](name, layer)


def _hopper16(name: str, layer: Layer) -> Tiles:
    scalar, slots = layer.R <= 1, layer.BLOCK_T
    if name == READ:
        return Tiles(128, 8, 3 if layer.TUNED else 2)
    if name == BLOCKS:
        return Tiles(128, 8) if slots <= 32 else Tiles(64, 8) if slots <= 64 else Tiles(64 if scalar else 32, 8, 1)
    if name == SUMS:
        return Tiles(128, 8)
    if scalar:
        return Tiles(64, 4, 3) if layer.GATE_IS_KEY else Tiles(64, 8)
    return Tiles(32, 8)


def _hopper32(name: str, layer: Layer) -> Tiles:
    scalar, slots = layer.R <= 1, layer.BLOCK_T
    if name == READ:
        if layer.TUNED:
            return Tiles(64, 4, 3)
        return Tiles(64 if scalar and slots <= 32 else 32 if scalar or slots <= 64 else 16, 8, 1)
    if name == SUMS:
        return Tiles(64 if scalar and slots <= 32 else 32 if scalar and slots <= 64 else 16, 8, 1)
    if name == BLOCKS:
        return Tiles(16, 8, 1)
    return Tiles(16, 4) if layer.BLOCK_C == 64 else Tiles(32, 8, 1)


def _warps_of_32_16(name: str, layer: Layer) -> Tiles:
    scalar, slots = layer.R <= 1, layer.BLOCK_T
    if name == READ:
        return Tiles(128, 8) if scalar and slots <= 64 else Tiles(64, 8, 1)
    if name == BLOCKS:
        if scalar:
            return Tiles(128, 8) if slots <= 32 else Tiles(64 if slots <= 64 else 32, 8, 1)
        return Tiles(16 if slots <= 32 else 32, 8, 1)
    if name == SUMS:
        return Tiles(128, 8) if scalar else Tiles(32, 8, 1)
    return Tiles(64, 8) if layer.GATE_IS_KEY else Tiles(32, 8, 1)


def _warps_of_32_32(name: str, layer: Layer) -> Tiles:
    if name == READ and (layer.R <= 1 or layer.BLOCK_T <= 64):
        return Tiles(64 if layer.TUNED else 32, 8, 1)
    return Tiles(16, 8, 1)


def _warps_of_64_16(name: str, layer: Layer) -> Tiles:
    if name == BLOCKS and layer.R > 1:
        return Tiles(32 if layer.BLOCK_T <= 64 else 16, 4, 1)
    if name == BLOCKS and layer.BLOCK_T > 64:
        return Tiles(64, 4, 1)
    if name == READ_BACKWARD and not layer.GATE_IS_KEY:
        return Tiles(32, 4, 1)
    return Tiles(64, 4)


def _warps_of_64_32(name: str, layer: Layer) -> Tiles:
    if name == READ and layer.R > 1 and layer.BLOCK_T > 64:
        return Tiles(32, 4, 1)
    if name in (READ, SUMS):
        return Tiles(64, 8, 1)
    return Tiles(32 if layer.R <= 1 else 16, 4, 1)
