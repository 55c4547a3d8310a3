"""The general path's time: a launch for every step, each of which begins when the one before has ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import gpu_serial as serial
from gpu_chips import Chip
from gpu_issue import unit_clocks
from gpu_phases import RESIDENT, WARPS, Phase, Prediction
from gpu_plan import WARP_POSITIONS, Launch, Shape, divide_up
from machine_code import Kernel, count_products

# Matrix products of 16 positions, as the cluster kernels have them, which the general ones have at least.
PRODUCTS = {("forward", 2): 28, ("forward", 4): 144, ("backward", 2): 64, ("backward", 4): 360}
TILE = 128  # positions, that code outside of products runs for


def predict_general(found: Prediction, chip: Chip, launches: list[Launch], kernels: list[Kernel]) -> None:
    """Within a launch of many small blocks memory and issue overlap; from launch to launch nothing does."""
    shape = found.shape
    steps = general_steps(chip, shape, launches)
    for launch in launches:
        step = steps[launch.kernel]
        phase = Phase()
        candidates = {
            "memory": step.moved / chip.copy_bandwidth,
            "second-level cache": step.touched / chip.l2_bandwidth,
        }
        if launch.kernel.startswith("general"):
            candidates |= _general_units(chip, shape, launch, launch.code(kernels))
        begin = step.waits / chip.clock
        phase.add({"serial": begin, **{limiter: begin + seconds for limiter, seconds in candidates.items() if seconds}})
        found.phases[launch.kernel] = phase
        found.moved += step.moved
    found.lockstep = found.spread = sum(phase.seconds for phase in found.phases.values())


@dataclass(frozen=True)
class Step:
    """One launch: clocks of a chain of waits, and bytes, from memory and all that it touches."""

    waits: float
    moved: int = 0
    touched: int = 0


def general_steps(chip: Chip, shape: Shape, launches: list[Launch]) -> dict[str, Step]:
    """By kernel. What the launch before has touched is in the second-level cache, if it fits."""
    image = shape.batch * shape.image
    again = 0 if image <= RESIDENT * chip.l2 else image
    blocks = {launch.kernel: launch.blocks // shape.batch for launch in launches}  # of an image
    ranks = max(blocks.get(f"memory_{direction}_kernel", 1) for direction in ("forward", "backward"))
    return {
        "sum_chunks": Step(serial.MEMORY, image, image),
        "memory_forward_kernel": Step(serial.memory_forward(ranks, shape.item, blocks.get("sum_chunks", 0))),
        "pack_tables": Step(serial.MEMORY + serial.CACHE),
        "general_forward_tiles": Step(serial.MEMORY, image + again, 2 * image),
        "general_backward_chunks": Step(serial.MEMORY, 3 * image, 3 * image),
        "memory_backward_kernel": Step(serial.memory_backward(ranks, blocks.get("general_backward_chunks", 0))),
        "multiply_products": Step(serial.parameters(shape.batch)),
        "add_mean_gradient": Step(serial.MEMORY, 2 * again, 2 * image),
    }


def _general_units(chip: Chip, shape: Shape, launch: Launch, kernel: Kernel) -> dict[str, float]:
    """Seconds of the units: the code of the products' loops as often as there are products, the rest once a tile."""
    products, looped, rest = _products_and_rest(kernel, chip)
    positions = shape.batch * shape.positions
    rounds = (
        divide_up(launch.blocks, chip.multiprocessors) * chip.multiprocessors / launch.blocks
    )  # the last isn't full
    often = positions / WARP_POSITIONS * PRODUCTS[shape.direction, shape.item] / products
    once = positions / TILE * WARPS
    clocks = {unit: often * looped[unit] + once * rest[unit] for unit in looped}
    return {unit: rounds * taken / chip.multiprocessors / chip.clock for unit, taken in clocks.items()}


@lru_cache
def _products_and_rest(kernel: Kernel, chip: Chip) -> tuple[int, dict[str, float], dict[str, float]]:
    """Products in the innermost loops that have any; clocks of the units for these loops, and for all other code."""
    loops = [set(loop) for loop in kernel.loops() if count_products(loop)]
    inner = set().union(*(loop for loop in loops if not any(other < loop for other in loops)))
    split = [instruction in inner for instruction in kernel.code]
    looped = [instruction for instruction, inside in zip(kernel.code, split, strict=True) if inside]
    rest = [instruction for instruction, inside in zip(kernel.code, split, strict=True) if not inside]
    return count_products(looped), unit_clocks(looped, chip), unit_clocks(rest, chip)
