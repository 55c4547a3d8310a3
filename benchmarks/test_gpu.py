"""The CUDA and Triton kernels against eager, torch.compile, an attention composition and the copy of h, on a GPU."""

import pytest
import torch
from gpu_cases import COMPILED_CASES, GPU_CASES, GPU_CONTENDERS, GPU_DIRECTIONS
from replay import CLOCK, replay

import kvmem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


@pytest.mark.benchmark(timer=CLOCK.read)
@pytest.mark.parametrize("contender", [*GPU_CONTENDERS, "bound"])
@pytest.mark.parametrize("direction", GPU_DIRECTIONS)
@pytest.mark.parametrize("case", GPU_CASES, ids=lambda case: case.name)
def test_layer_on_gpu(benchmark, measure_on_gpu, case, direction, contender):
    if contender == "compiled" and (case.name not in COMPILED_CASES or direction == "backward"):
        pytest.skip("compiled for the shapes of the bars alone, and not for backward alone")
    benchmark.group = f"{case.name}, {direction}"
    measurement = measure_on_gpu(case, direction)
    if contender not in measurement.seconds:
        pytest.skip(f"the {contender} backend can't run: {kvmem.backends()[contender].reason}")
    replay(benchmark, measurement.seconds[contender])
