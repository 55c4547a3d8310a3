"""The cluster path's time: waves of clusters, an image each, and the phases of a wave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import gpu_serial as serial
from gpu_chips import Chip
from gpu_issue import unit_clocks, warp_clocks
from gpu_phases import RESIDENT, WARPS, Phase, Prediction
from gpu_plan import GROUPS, TILE, WARP_POSITIONS, Launch, Shape, Tiles, divide_up, tiles_of
from machine_code import Kernel

PORT_BYTES_A_CLOCK = 64  # from the second-level cache into a multiprocessor
SUM_INSTRUCTIONS = 2  # for a number of h that goes into the mean


@dataclass(frozen=True)
class MainLoop:
    """The loop over positions: what a pass of a warp over 16 of them takes, in instructions, units' and own clocks."""

    instructions: int
    units: dict[str, float]
    warp: float


@dataclass(frozen=True)
class Wave:
    """Clusters that run at the same time, and how many blocks of them share a multiprocessor."""

    clusters: int
    blocks: int


def waves_of(chip: Chip, batch: int, cluster: int, blocks: int) -> list[Wave]:
    """blocks: that a multiprocessor has room for. A wave that doesn't fill the chip spreads over it."""
    resident, alone = chip.clusters(cluster, blocks), chip.clusters(cluster, 1)
    sizes = [min(resident, batch - first) for first in range(0, batch, resident)]
    return [Wave(clusters, min(blocks, divide_up(clusters, alone))) for clusters in sizes]


def predict_clusters(found: Prediction, chip: Chip, launches: list[Launch], kernels: list[Kernel]) -> None:
    launch, shape = launches[0], found.shape
    kernel = launch.code(kernels)
    work = work_of(chip, shape, launch, kernels)
    found.blocks = launch.blocks_a_multiprocessor(chip, kernel)
    found.cluster = launch.cluster
    found.resident = chip.clusters(launch.cluster, found.blocks)
    found.instructions = work.loop.instructions
    waves = waves_of(chip, shape.batch, launch.cluster, found.blocks)
    found.waves = len(waves)
    steps = work.forward if shape.direction == "forward" else work.backward
    for name in ("load", "serial", "loop", "store"):
        found.phases[name] = Phase()
    for wave in waves:
        for name, candidates in steps(wave).items():
            found.phases[name].add(candidates)
    parameters = serial.parameters(shape.batch) / chip.clock if len(launches) > 1 else 0.0
    found.phases["parameters"] = Phase(parameters, "parameters")
    found.lockstep = sum(phase.seconds for phase in found.phases.values())
    # What is missing in the cache is read, and in backward written, a second time.
    missing = sum(work.again(wave)[1] for wave in waves)
    found.moved = shape.traffic + int(missing) * (1 if shape.direction == "forward" else 2)
    outside = found.phases["launches"].seconds + parameters
    found.spread = outside + max(
        found.moved / chip.copy_bandwidth,
        sum(max(work.units(wave).values()) for wave in waves),
        sum(work.alone(wave, steps) for wave in waves),
    )


def work_of(chip: Chip, shape: Shape, launch: Launch, kernels: list[Kernel]) -> ClusterWork:
    loop = _main_loop(launch.code(kernels), chip)
    return ClusterWork(chip, shape, launch, tiles_of(chip, shape, launch), loop)


@dataclass(frozen=True)
class ClusterWork:
    """The phases of one wave, each as the seconds of everything that goes on in it."""

    chip: Chip
    shape: Shape
    launch: Launch
    tiles: Tiles
    loop: MainLoop

    @property
    def kept(self) -> float:
        """Of an image, what stays on chip: of h until its response is there, or of dh until the mean's gradient is."""
        slots = self.tiles.slots
        if self.shape.direction == "backward":
            slots = slots - 2 if slots > 3 else 1
        return min(slots, self.tiles.group) / self.tiles.group

    def passes(self, wave: Wave) -> int:
        """Passes of warps over 16 positions on a multiprocessor."""
        return wave.blocks * GROUPS * self.tiles.group * TILE // WARP_POSITIONS

    def units(self, wave: Wave) -> dict[str, float]:
        """Seconds that the units of a multiprocessor are busy in the main loop."""
        return {unit: self.passes(wave) * taken / self.chip.clock for unit, taken in self.loop.units.items()}

    def loop_seconds(self, wave: Wave) -> dict[str, float]:
        waits = self.passes(wave) / (wave.blocks * WARPS) * self.loop.warp / self.chip.clock
        return {**self.units(wave), "a warp's waits": waits}

    def memory(self, numbers: float) -> float:
        return numbers / self.chip.copy_bandwidth

    def port(self, wave: Wave, images: float) -> float:
        """Seconds for so many images' worth of numbers to come into their multiprocessors."""
        numbers = wave.blocks * images * self.shape.image / self.launch.cluster
        return numbers / (PORT_BYTES_A_CLOCK * self.chip.clock)

    def again(self, wave: Wave) -> tuple[float, float]:
        """Bytes of the wave that aren't on chip when they are needed again: all, and those of them out of the cache."""
        numbers = wave.clusters * self.shape.image * (1 - self.kept)
        return numbers, numbers if numbers > RESIDENT * self.chip.l2 else 0.0

    def forward(self, wave: Wave) -> dict[str, dict[str, float]]:
        image, clock = wave.clusters * self.shape.image, self.chip.clock
        again, missing = self.again(wave)
        sums = SUM_INSTRUCTIONS * image / self.shape.item / 32 / (4 * wave.clusters * self.launch.cluster / wave.blocks)
        words = serial.words(self.launch.cluster, self.shape.item) + serial.CLUSTER
        latency = serial.MEMORY / clock
        return {
            "load": {
                "memory": latency + self.memory(image),
                "port": latency + self.port(wave, 1),
                "words": words / clock,
                "issue": sums / clock,
            },
            "serial": {"serial": serial.forward(self.launch.cluster, self.shape.item) / clock},
            "loop": {
                **self.loop_seconds(wave),
                "memory": self.memory(image + missing),
                "second-level cache": (image + again) / self.chip.l2_bandwidth,
            },
        }

    def ahead(self, wave: Wave, seconds: float) -> float:
        """Bytes of the first tiles of h and dout that come in so many seconds: backward copies so many tiles ahead."""
        kept = round(self.kept * self.tiles.group)
        tiles = min(kept, self.tiles.slots - kept)
        return min(2 * wave.clusters * self.shape.image * tiles / self.tiles.group, seconds * self.chip.copy_bandwidth)

    def backward(self, wave: Wave) -> dict[str, dict[str, float]]:
        image, clock = wave.clusters * self.shape.image, self.chip.clock
        again, missing = self.again(wave)
        cluster = self.launch.cluster
        tables = (serial.backward_begin() + serial.MEMORY) / clock
        return {
            "load": {"tables": tables},
            "serial": {"serial": serial.backward(cluster) / clock},
            "loop": {
                **self.loop_seconds(wave),
                "memory": self.memory(2 * image - self.ahead(wave, tables) + missing),
                "port": self.port(wave, 2),
            },
            "store": {
                "memory": self.memory(image + missing),
                "second-level cache": (image + again) / self.chip.l2_bandwidth,
            },
        }

    def alone(self, wave: Wave, steps: Callable[[Wave], dict[str, dict[str, float]]]) -> float:
        """Seconds of one cluster's phases one after the other, if it had the memory for itself."""
        phases = steps(Wave(1, wave.blocks))
        return sum(max(candidates.values()) for candidates in phases.values())


@lru_cache
def _main_loop(kernel: Kernel, chip: Chip) -> MainLoop:
    loop = kernel.main_loop()
    return MainLoop(len(loop), unit_clocks(loop, chip), warp_clocks(loop))
