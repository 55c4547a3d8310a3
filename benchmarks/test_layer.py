"""The fused layer against the eager reference and torch.compile, forward and with backward: `pytest benchmarks/`."""

import pytest
from cases import CASES, CONTENDERS, DIRECTIONS


class ReplayedClock:
    """The clock that pytest-benchmark reads: it moves by the seconds that were measured in interleaved rounds.

    pytest-benchmark by itself times one contender after the other; on a shared machine that compares different minutes.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


CLOCK = ReplayedClock()


@pytest.mark.benchmark(timer=CLOCK.read)
@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer(benchmark, measure, case, direction, contender):
    benchmark.group = f"{case.name}, {direction}"
    measurement = measure(case, direction)
    if contender not in measurement.seconds:
        pytest.skip("kvmem was installed without its compiled extension")
    benchmark.extra_info["limit_ms"] = measurement.limit * 1e3
    seconds = measurement.seconds[contender]
    rounds = iter(seconds)
    benchmark.pedantic(CLOCK.advance, setup=lambda: ((next(rounds),), {}), rounds=len(seconds))
