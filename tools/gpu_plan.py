"""What a call launches on a chip, by the kernels' own planner, which tests/support/simt_build.py makes for the host."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from gpu_chips import Chip
from machine_code import Kernel

TYPES = {"Bfloat16": "bfloat16", "Float16": "float16", "float": "float32"}
CHANNELS, SLOTS, WORD_CHANNELS = 64, 18, 256  # of all shapes that are predicted
TILE, GROUPS, WARP_POSITIONS = 64, 2, 16  # positions of a tile, groups of warps a block, positions of a warp's pass


@dataclass(frozen=True)
class Shape:
    """One call: images of size x size positions, the type of the tensors, "forward" or "backward"."""

    batch: int
    size: int
    dtype: str
    direction: str

    @property
    def case(self) -> str:
        """As the benchmarks name it."""
        return f"B={self.batch}, {self.size}², {self.dtype}"

    @property
    def positions(self) -> int:
        return self.size**2

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def image(self) -> int:
        """Bytes of one image."""
        return CHANNELS * self.positions * self.item

    @property
    def traffic(self) -> int:
        """Bytes that no kernel can avoid: h and out, or h, the gradient of out and that of h."""
        return self.batch * self.image * (2 if self.direction == "forward" else 3)


@dataclass(frozen=True)
class Launch:
    """One kernel's launch: its name, the type and the flags that it is a template of, and how it is launched.

    cluster: blocks. shared: bytes of a block. early: its blocks begin before the launch before it is done, and wait.
    """

    kernel: str
    dtype: str
    flags: tuple[str, ...]
    blocks: int
    threads: int
    cluster: int
    shared: int
    early: bool

    def code(self, kernels: list[Kernel]) -> Kernel:
        """The machine code that runs, where words and weights are in the image's type."""
        wanted = (self.kernel, self.dtype, list(self.flags), False)
        return next(kernel for kernel in kernels if (kernel.name, kernel.type, kernel.flags, kernel.wide) == wanted)

    def blocks_a_multiprocessor(self, chip: Chip, kernel: Kernel) -> int:
        """As many as registers, warps and shared memory allow; the system takes 1 KiB of the last for each."""
        return min(self.blocks_by_registers(chip, kernel), chip.shared // (self.shared + 1024))

    def blocks_by_registers(self, chip: Chip, kernel: Kernel) -> int:
        """As many as registers and warps allow."""
        registers = (kernel.registers + 7) // 8 * 8 * self.threads
        return min(chip.registers // registers, chip.warps * 32 // self.threads)


@dataclass(frozen=True)
class Tiles:
    """How the blocks of a cluster hold an image: tiles of a group of warps, and how many it has room for."""

    group: int
    slots: int


def divide_up(n: int, parts: int) -> int:
    return -(-n // parts)


@lru_cache
def planner() -> ModuleType:
    """The module kvmem_simt, compiled if it isn't up to date. Raises RuntimeError where there is no C++ compiler."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    import simt_build

    if simt_build.compiler() is None:
        raise RuntimeError("the plans need a C++ compiler: g++, or what CXX names")
    spec = importlib.util.spec_from_file_location("kvmem_simt", simt_build.build("kvmem_simt"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(chip: Chip, shape: Shape, kernels: list[Kernel]) -> list[Launch]:
    """The launches of a call, in order. kernels: the code that the chip runs; its registers decide the plan too."""
    launches = _plan(chip, shape, 2)
    return _plan(chip, shape, min(2, launches[0].blocks_by_registers(chip, launches[0].code(kernels))))


def _plan(chip: Chip, shape: Shape, most_blocks: int) -> list[Launch]:
    """Where registers have room for so many blocks on a multiprocessor."""
    module = planner()
    module.set_device(*chip.device())
    module.set_room(chip.processing_clusters, most_blocks)
    try:
        return [
            _launch(given)
            for given in module.plan(
                shape.direction, shape.dtype, shape.batch, CHANNELS, shape.positions, SLOTS, WORD_CHANNELS
            )
        ]
    finally:
        module.set_device()
        module.set_room()


def _launch(given: dict) -> Launch:
    name, arguments = re.fullmatch(r"kvmem::cuda::(\w+)<(.*)>", given["kernel"]).groups()
    dtype, *others = (argument.split("::")[-1] for argument in arguments.split(", "))
    numbers = tuple({"true": "1", "false": "0"}.get(flag, flag) for flag in others if flag not in TYPES)
    sizes = (given[key] for key in ("blocks", "threads", "cluster", "shared_bytes"))
    return Launch(name, TYPES[dtype], numbers, *sizes, given["early"])


def tiles_of(chip: Chip, shape: Shape, launch: Launch) -> Tiles:
    """Of a cluster kernel. What a block holds beside its tiles is what it holds for an image of one tile."""
    slot, fixed, _ = _room(chip, shape)
    return Tiles(_group(shape, launch.cluster), (launch.shared - fixed) // slot)


def other_plans(chip: Chip, shape: Shape, launch: Launch, kernels: list[Kernel]) -> list[Launch]:
    """A cluster kernel's launch with other numbers of blocks an image, and of blocks that share a multiprocessor."""
    slot, fixed, of_a_tile = _room(chip, shape)
    found = []
    for cluster in (1, 2, 4, 8, 16):
        for blocks in range(1, launch.blocks_by_registers(chip, launch.code(kernels)) + 1):
            limit = min(chip.shared // blocks - 1024, chip.block_shared)
            slots = min((limit - fixed) // slot, _group(shape, cluster) * of_a_tile)
            if slots >= of_a_tile:
                sizes = {"blocks": shape.batch * cluster, "cluster": cluster, "shared": fixed + slots * slot}
                found.append(replace(launch, **sizes))
    return found


def _group(shape: Shape, cluster: int) -> int:
    """Tiles of a group of warps."""
    return divide_up(divide_up(shape.positions, TILE), cluster * GROUPS)


def _room(chip: Chip, shape: Shape) -> tuple[int, int, int]:
    """Bytes of a slot of both groups, bytes that a block holds beside them, slots that a tile takes."""
    of_a_tile = 1 if shape.direction == "forward" else 2
    slot = GROUPS * TILE * CHANNELS * shape.item
    smallest, *_ = _plan(chip, Shape(1, 8, shape.dtype, shape.direction), 2)
    return slot, smallest.shared - of_a_tile * slot, of_a_tile
