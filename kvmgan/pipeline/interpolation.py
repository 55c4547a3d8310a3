"""What lies between two captions, and between two noises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def between_noises(first: Tensor, last: Tensor, weight: float) -> Tensor:
    """The noise (N,) at ``weight`` from 0 to 1 on the arc from one to the other: its length stays that of noise.

    A straight line would pass nearer to zero than any noise that a generator was trained on.
    """
    cosine = torch.dot(first, last) / (first.norm() * last.norm()).clamp(min=1e-12)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < 1e-4:
        return torch.lerp(first, last, weight)
    parts = torch.sin((1 - weight) * angle), torch.sin(weight * angle)
    return (parts[0] * first + parts[1] * last) / torch.sin(angle)


def stretched_places(length: int, onto: int) -> list[int]:
    """Which of ``length`` words stands at each of ``onto`` >= length places, in order, each about equally often."""
    return [place * length // onto for place in range(onto)]


def joined_words(first: Sequence[str], last: Sequence[str]) -> tuple[str, ...]:
    """What two captions' words, stretched to one number, are called on the way: ``red`` or ``red>blue``."""
    return tuple(one if one == other else f"{one}>{other}" for one, other in zip(first, last, strict=True))
