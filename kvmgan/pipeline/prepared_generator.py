"""A generator made ready to draw with, kept for as long as its weights stay what they are."""

from __future__ import annotations

import copy
from functools import cached_property

import torch

from kvmgan.models.generator import Generator
from kvmgan.models.inference import for_inference


class PreparedGenerator:
    """Copies of a generator: ``drawing`` in its own type, ``wide`` in float32 at least."""

    def __init__(self, generator: Generator) -> None:
        self._versions = _versions(generator)
        self.drawing = for_inference(generator)

    def is_of(self, generator: Generator) -> bool:
        """Whether the generator's weights are those that the copies were made of."""
        return self._versions == _versions(generator)

    @cached_property
    def wide(self) -> Generator:
        """For differences of pictures, which in 16 bits would be those of their rounding."""
        narrow = self.drawing.conditioning.fc.weight.dtype in (torch.bfloat16, torch.float16)
        return copy.deepcopy(self.drawing).float() if narrow else self.drawing


def _versions(generator: Generator) -> tuple[int, ...]:
    """How often each weight has been written to."""
    weights = generator.state_dict(keep_vars=True).values()
    # Those read in torch.inference_mode() can't be written to outside of it, and count no versions.
    return tuple(0 if tensor.is_inference() else tensor._version for tensor in weights)
