"""Which of several noises a picture is drawn from: the one around which pictures change least.

A generator is continuous in its noise, and what the noise decides need not be. Between noises of birds that face left
and noises of birds that face right lie some of birds with two heads, or none. Pictures change fastest there, so
that the rate of change tells such noises from others: Jacobian-based truncation (Tanielian et al., 2020, "Learning
disconnected manifolds: a no GAN's land"). There the fastest of many noises are left out; here the slowest of a few is
taken, so that a picture depends on its own seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from kvmgan.models.generator import Generator
from kvmgan.random_streams import numpy_stream

# Of the noise's dimensions: all 32 of the model that ships leave no fewer faults than these.
DIRECTIONS = 4
# Along a unit vector: large enough for float32, small beside the unit that noise varies by.
STEP = 0.1


def steadiest(generator: Generator, noises: Tensor, sentence: Tensor, condition_noise: Tensor) -> Tensor:
    """The noise (B, Z) of each picture's N around which its first image changes least; an earlier one of equal ones.

    Args:
        generator: in evaluation mode, or a copy by :func:`kvmgan.models.inference.for_inference`, in float32 at least:
            differences of images of 16 bits are those of their rounding.
        noises: (B, N, Z).
        sentence: (B, S) sentence features.
        condition_noise: (B, C); the same for all N, so that the noise alone is compared.
    """
    if noises.shape[1] == 1:
        return noises[:, 0]

    def first_image(noise: Tensor) -> Tensor:
        return generator.first_image(noise, sentence, condition_noise)

    rates = torch.stack([change_rate(first_image, noise) for noise in noises.unbind(1)], dim=1)
    return noises[torch.arange(len(noises), device=noises.device), rates.argmin(dim=1)]


def change_rate(first_image: Callable[[Tensor], Tensor], noise: Tensor, *, directions: int = DIRECTIONS) -> Tensor:
    """Squared Frobenius norm of the Jacobian of images (B, 3, s, s) by their noise (B, Z), (B,), estimated.

    By differences along ``directions`` orthonormal directions, the same ones on every call: Z / directions times the
    sum of the squared changes a unit of noise. With Z directions only the steps' length is left of the error.
    """
    before = first_image(noise)
    total = torch.zeros_like(before[:, 0, 0, 0])
    for direction in torch.from_numpy(_orthonormal(noise.shape[1], directions)).to(noise):
        change = (first_image(noise + STEP * direction) - before) / STEP
        total += change.square().sum(dim=(1, 2, 3))
    return total * max(1.0, noise.shape[1] / directions)


@cache
def _orthonormal(length: int, count: int) -> np.ndarray:
    """(count, length) unit vectors, every two at right angles; no more than there are."""
    drawn = numpy_stream(0, "directions of change").standard_normal((length, min(count, length)))
    return np.linalg.qr(drawn)[0].T.copy()
