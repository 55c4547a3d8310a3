"""Timing in interleaved rounds: everything runs once a round, so that what slows the machine down slows all of it."""

from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time

import torch
from cases import Case, make_contenders
from memory import peak_beyond_results

SECONDS = 4.0
FEWEST_ROUNDS, MOST_ROUNDS = 11, 300
WARMUP_ROUNDS = 3
GEMM_SIZE = 1024


def interleave(functions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Name -> seconds of each round, for about `SECONDS` in all."""
    for _ in range(WARMUP_ROUNDS):
        for function in functions.values():
            function()
    seconds = {name: [] for name in functions}
    begin, rounds = perf_counter(), 0
    while rounds < FEWEST_ROUNDS or (rounds < MOST_ROUNDS and perf_counter() - begin < SECONDS):
        for name, function in functions.items():
            start = perf_counter()
            function()
            seconds[name].append(perf_counter() - start)
        rounds += 1
    return seconds


class Measurement:
    """One case in one direction: seconds of each round for the contenders, and the limit measured between them."""

    def __init__(self, case: Case, direction: str) -> None:
        self.case, self.direction = case, direction
        image = case.make_image()
        target = torch.empty_like(image)
        factor = torch.randn(GEMM_SIZE, GEMM_SIZE)
        product = torch.empty_like(factor)
        self.gemm_processor_seconds: list[float] = []

        def gemm() -> None:
            start = process_time()
            torch.mm(factor, factor, out=product)
            self.gemm_processor_seconds.append(process_time() - start)

        yardsticks = {"copy": lambda: target.copy_(image), "gemm": gemm}
        contenders = make_contenders(case, direction)
        self.seconds = interleave(contenders | yardsticks)
        # With backward, the output is beside what the contenders return.
        output = image.numel() * image.element_size() if direction != "forward" else 0
        self.peak_bytes = {name: peak_beyond_results(contenders[name]) - output for name in contenders}

    def median(self, name: str) -> float:
        """Median seconds of a contender, of copying the image ("copy") or of a float32 matrix product ("gemm")."""
        return median(self.seconds[name])

    @property
    def gemm_rate(self) -> float:
        """Floating-point operations a second of torch.mm in float32."""
        return 2 * GEMM_SIZE**3 / self.median("gemm")

    @property
    def limit(self) -> float:
        """Seconds that memory or arithmetic take at least: the larger of the image's copies and FLOPs / GEMM rate."""
        copies = self.case.copies(self.direction) * self.median("copy")
        return max(copies, self.case.flops(self.direction) / self.gemm_rate)

    @property
    def processors(self) -> float:
        """Processor seconds a second during the matrix product: the number of threads where nothing else runs."""
        return median(self.gemm_processor_seconds) / self.median("gemm")

    def summary(self) -> dict[str, float | str | dict | None]:
        """Medians in milliseconds and their ratios, as in the table; None where the fused layer can't run."""
        eager, compiled = self.median("eager"), self.median("compiled")
        fused = self.median("fused") if "fused" in self.seconds else None
        return {
            "case": self.case.name,
            "direction": self.direction,
            "fused_ms": fused and fused * 1e3,
            "eager_ms": eager * 1e3,
            "compiled_ms": compiled * 1e3,
            "eager_over_fused": fused and eager / fused,
            "compiled_over_fused": fused and compiled / fused,
            "attention_over_fused": fused and self.median("attention") / fused,
            "peak_mib": {name: peak / 2**20 for name, peak in self.peak_bytes.items()},
            "peak_over_eager": fused and self.peak_bytes["fused"] / max(1, self.peak_bytes["eager"]),
            "limit_ms": self.limit * 1e3,
            "fused_over_limit": fused and fused / self.limit,
            "copy_ms": self.median("copy") * 1e3,
            "gemm_gflops": self.gemm_rate / 1e9,
            "processors": self.processors,
            "fastest_ms": {name: min(seconds) * 1e3 for name, seconds in self.seconds.items()},
            "rounds": len(self.seconds["eager"]),
        }
