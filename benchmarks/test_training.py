"""A step of adversarial training against a plain one of the same networks: `pytest benchmarks/test_training.py`."""

import pytest
import torch
from replay import CLOCK, replay
from training_step import CONTENDERS, measure


@pytest.fixture(scope="module")
def seconds() -> dict[str, list[float]]:
    """Contender -> seconds of each round, all measured together."""
    return measure(torch.device("cpu"), rounds=5)


@pytest.mark.benchmark(timer=CLOCK.read, group="training step, preset cub, small image encoder, batch 4")
@pytest.mark.parametrize("contender", CONTENDERS)
def test_training(benchmark, seconds, contender):
    replay(benchmark, seconds[contender])
