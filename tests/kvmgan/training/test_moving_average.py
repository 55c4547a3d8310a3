"""The moving average of a model."""

import torch
from torch import nn

from kvmgan.training.moving_average import MovingAverage


def test_weights_and_buffers_are_averaged_and_counters_copied():
    model = nn.BatchNorm1d(3)
    average = MovingAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(8.0)
        model.num_batches_tracked.fill_(7)
    average.update(model, step=1000)
    assert torch.equal(average.model.weight, torch.full((3,), 2.0))
    assert torch.equal(average.model.running_mean, torch.full((3,), 4.0))
    assert average.model.num_batches_tracked == 7


def test_early_steps_forget_faster():
    """The decay at step t is min(decay, (1 + t) / (10 + t))."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = MovingAverage(model, decay=0.999)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update(model, step=0)
    torch.testing.assert_close(average.model.weight.item(), 0.9)


def test_average_is_apart_from_its_source():
    model = nn.Linear(2, 2)
    average = MovingAverage(model, decay=0.9)
    assert not any(p.requires_grad for p in average.model.parameters())
    assert not average.model.training
    assert all(p.requires_grad for p in model.parameters())
