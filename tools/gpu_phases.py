"""What the model says of a call: its phases, what each of them waits for, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_plan import Shape

# Seconds between two events around a kernel that does nothing; from one kernel's end to the next one's start; the same
# where the next one's blocks are there already and wait for it.
FIRST_LAUNCH, NEXT_LAUNCH, EARLY_LAUNCH = 2.0e-6, 1.0e-6, 0.5e-6
RESIDENT = 0.75  # of the second-level cache, what is taken to be still there when it is read again
WARPS = 8  # of a block


@dataclass
class Phase:
    """Seconds of a phase over all waves, and what it is limited by in the longest of them."""

    seconds: float = 0.0
    limiter: str = ""
    longest: float = 0.0

    def add(self, candidates: dict[str, float]) -> None:
        """One wave more: the phase takes as long as the slowest of what goes on in it at the same time."""
        limiter = max(candidates, key=candidates.get)
        self.seconds += candidates[limiter]
        if candidates[limiter] > self.longest:
            self.limiter, self.longest = limiter, candidates[limiter]


@dataclass
class Prediction:
    """What the model says of one call on one chip.

    lockstep: seconds where all clusters of a wave do the same at the same time, so that memory stands still while they
    compute: the prediction. spread: where clusters drift so far apart that only the busiest unit counts: at best.
    bound: seconds of the copy. instructions: of the main loop, a warp and 16 positions; 0 on the general path.
    resident: clusters at a time; cluster: blocks of one; blocks: of them on a multiprocessor. moved: bytes between
    memory and chip.
    """

    chip: str
    shape: Shape
    path: str
    launches: int
    bound: float
    lockstep: float = 0.0
    spread: float = 0.0
    waves: int = 1
    resident: int = 0
    cluster: int = 0
    blocks: int = 0
    instructions: int = 0
    moved: int = 0
    phases: dict[str, Phase] = field(default_factory=dict)

    @property
    def limiter(self) -> str:
        name, phase = max(self.phases.items(), key=lambda item: item[1].seconds)
        return name if phase.limiter == name else f"{name}: {phase.limiter}"
