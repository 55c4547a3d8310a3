"""How long a multiprocessor takes to issue a piece of machine code: its units' throughputs, and a warp's own waits."""

from __future__ import annotations

import re

from gpu_chips import Chip
from machine_code import Instruction

SCHEDULERS = 4  # a multiprocessor, each issues an instruction a clock
# Clocks until a result is there, where the compiler can't know and lets a barrier tell: as others measured them on
# Ampere and Hopper. All other instructions take what the compiler wrote into them.
LATENCIES = ((r"LDS|LDSM", 30), (r"SHFL", 25), (r"MUFU", 20), (r"BAR", 30), (r"LDGSTS|STG|LD|ST", 20), (r"", 20))
# Bytes that one instruction of a warp moves from or to shared memory, or the first-level cache that it is part of.
WIDTHS = {"128": 512, "64": 256}
SHARED_BYTES_A_CLOCK = 128


def unit_clocks(code: list[Instruction], chip: Chip) -> dict[str, float]:
    """Clocks of a multiprocessor for one pass of a warp, by the unit that would be busy all the time."""
    clocks = {"issue": len(code) / SCHEDULERS, "matrix units": 0.0, "shared memory": 0.0}
    clocks |= {"special functions": 0.0, "integers": 0.0, "float32": 0.0}
    for instruction in code:
        unit, taken = _unit(instruction.name, chip)
        clocks[unit] += taken
    return clocks


def _unit(name: str, chip: Chip) -> tuple[str, float]:
    """The unit that an instruction takes, and for how many clocks of the multiprocessor's."""
    base, *rest = name.split(".")
    if base == "HMMA":
        rate = chip.tensor_32 if "TF32" in rest else chip.tensor_16
        rows, columns, depth = 16, 8, int(rest[0][3:])
        return "matrix units", rows * columns * depth / rate
    if base in ("LDS", "STS", "LDGSTS", "LDG", "STG"):
        moved = next((WIDTHS[part] for part in rest if part in WIDTHS), 128)
        return "shared memory", moved / SHARED_BYTES_A_CLOCK
    if base in ("LDSM", "STSM"):
        return "shared memory", float(rest[-1])
    if base == "SHFL":
        return "shared memory", 1.0
    if base in ("MUFU", "F2I", "I2F"):
        return "special functions", 32 / 16
    if re.fullmatch(r"F(FMA|ADD|MUL)|IMAD", base):
        return "float32", 32 / chip.float_lanes
    if re.fullmatch(r"LOP3|IADD3|VIADD|LEA|SHF|I?SETP|FSETP|FSEL|SEL|FMNMX|PRMT|F2FP|MOV|VIMNMX|ISETP", base):
        return "integers", 32 / 64
    return "issue", 0.0


def warp_clocks(code: list[Instruction]) -> float:
    """Clocks that a warp takes for one pass of a loop when it has the multiprocessor for itself and nothing comes late.

    An instruction's control bits: 4 of clocks to wait after it, 1 of yielding, 3 each of the barrier that its result
    and its reading of registers release (7: none), 6 of the barriers that it waits for.
    """
    ready = [0] * 6
    now = begin = 0
    for turn in range(2):  # the second turn meets the waits that the first leaves behind
        begin = now if turn else 0
        for instruction in code:
            control = instruction.control
            stall, result, read, waits = control & 15, control >> 5 & 7, control >> 8 & 7, control >> 11 & 63
            now = max([now, *(at for barrier, at in enumerate(ready) if waits >> barrier & 1)])
            latency = next(clocks for pattern, clocks in LATENCIES if re.match(pattern, instruction.name))
            for barrier, wait in ((result, latency), (read, latency // 2)):
                if barrier < 6:
                    ready[barrier] = max(ready[barrier], now + wait)
            now += max(stall, 1) + (latency if instruction.name.startswith("BAR") else 0)
    return now - begin
