"""A step of adversarial training against a plain one of the same networks: `pytest benchmarks/test_training.py`."""

import pytest
import torch
from replay import CLOCK, replay
from training_step import CONTENDERS, measure

from kvmgan.training.precision import Precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def seconds() -> dict[str, list[float]]:
    """Contender -> seconds of each round, all measured together; without bfloat16 where the CPU doesn't multiply it."""
    emulated = Precision.choose("auto", CPU).name == "float32"
    contenders = [name for name in CONTENDERS if not (emulated and name.startswith("bfloat16"))]
    return measure(CPU, rounds=5, contenders=contenders)


@pytest.mark.benchmark(timer=CLOCK.read, group="training step, preset cub, small image encoder, batch 4")
@pytest.mark.parametrize("contender", CONTENDERS)
def test_training(benchmark, seconds, contender):
    if contender not in seconds:
        pytest.skip("this CPU emulates bfloat16: python benchmarks/training_step.py measures it nonetheless")
    replay(benchmark, seconds[contender])
