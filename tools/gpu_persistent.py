"""What if the cluster path's grid were persistent, and a cluster loaded the next image into slots as they become free.

Bytes and serial phases stay what they are; what moves is when the bytes come. Forward frees a tile's slot when its
response is written: the next image's tiles come beside the current one's loop, as many as there are slots, the others
after it. Backward frees the slots of h, where dh waits for the mean's gradient, only on its way out, when memory has no
time for them; beside the serial phase the slots of dout alone are free. One message more for each image says that all
blocks are done with the last.
"""

from __future__ import annotations

import gpu_serial as serial
from gpu_chips import Chip
from gpu_clusters import ClusterWork, Wave, waves_of, work_of
from gpu_phases import Prediction
from gpu_plan import Launch
from machine_code import Kernel


def persistent(found: Prediction, chip: Chip, launches: list[Launch], kernels: list[Kernel]) -> float:
    """Seconds of the call, all clusters in step as in found.lockstep. found: the same call by waves."""
    work = work_of(chip, found.shape, launches[0], kernels)
    waves = waves_of(chip, found.shape.batch, launches[0].cluster, found.blocks)
    of_an_image = _forward if found.shape.direction == "forward" else _backward
    seconds = sum(
        of_an_image(work, wave, first, following)
        for wave, first, following in zip(waves, [True] + [False] * len(waves), [*waves[1:], None], strict=False)
    )
    return found.phases["launches"].seconds + found.phases["parameters"].seconds + seconds


def _forward(work: ClusterWork, wave: Wave, first: bool, following: Wave | None) -> float:
    steps = work.forward(wave)
    load, loop = dict(steps["load"]), dict(steps["loop"])
    between = 0.0
    if not first:
        # The words, and what there was room for, came beside the last image's loop.
        left = 1 - work.kept
        load = {name: left * load[name] for name in ("memory", "port", "issue")}
        between = serial.MESSAGE / work.chip.clock
    if following:
        loop["memory"] += work.memory(following.clusters * work.shape.image * work.kept)
        loop["port"] = work.port(following, work.kept)
    return max(load.values()) + between + max(steps["serial"].values()) + max(loop.values())


def _backward(work: ClusterWork, wave: Wave, first: bool, following: Wave | None) -> float:
    steps = work.backward(wave)
    loop = dict(steps["loop"])
    between = 0.0
    if not first:
        slots = work.tiles.slots - round(work.kept * work.tiles.group)
        dout = wave.clusters * work.shape.image * min(slots, work.tiles.group) / work.tiles.group
        loop["memory"] -= min(work.memory(dout), max(steps["serial"].values()))
        between = serial.MESSAGE / work.chip.clock
    phases = (steps["load"], steps["serial"], loop, steps["store"])
    return between + sum(max(candidates.values()) for candidates in phases)
