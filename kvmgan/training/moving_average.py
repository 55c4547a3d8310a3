"""Exponential moving average of a model, buffers included."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """Keeps ``model`` (evaluation mode, no gradients) as the moving average of another model of the same shape.

    Floating-point buffers (BatchNorm's running statistics) are averaged like the weights, so that they fit the averaged
    weights; whole-number buffers are copied. The decay at step t (from 0) is ``min(decay, (1 + t) / (10 + t))``: the
    first steps forget the random start quickly.
    """

    def __init__(self, source: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(source).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Take the weights and buffers of ``source`` after optimiser step ``step`` (from 0) into the average."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages = self.model.state_dict(keep_vars=True)
        floating = []
        for name, value in source.state_dict(keep_vars=True).items():
            if value.is_floating_point():
                floating.append((averages[name], value))
            else:
                averages[name].copy_(value)
        torch._foreach_lerp_([average for average, _ in floating], [value for _, value in floating], weight)
