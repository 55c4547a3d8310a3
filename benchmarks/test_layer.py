"""The fused layer against the eager reference and torch.compile, forward and with backward: `pytest benchmarks/`."""

import pytest
from cases import CASES, CONTENDERS, DIRECTIONS
from replay import CLOCK, replay


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
    replay(benchmark, measurement.seconds[contender])
