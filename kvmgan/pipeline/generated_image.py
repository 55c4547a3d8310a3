"""A picture that a pipeline made, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class GeneratedImage:
    """A picture, its stages, and where each word was looked at.

    Attributes:
        caption: what was asked for.
        words: the T words that the model read of it, in order.
        stages: square pictures of growing size; the last one is :attr:`picture`.
        attention: a refinement stage each, (T, s, s) float32, s the side that the stage starts from [pixels]; at each
            position the words' shares sum to one. Empty for a model that doesn't look at words.
    """

    caption: str
    words: tuple[str, ...]
    stages: tuple[Image.Image, ...]
    attention: tuple[NDArray[np.float32], ...]

    @property
    def picture(self) -> Image.Image:
        """The finished picture, RGB in 8 bits."""
        return self.stages[-1]

    def attention_of(self, word: str, stage: int = -1) -> NDArray[np.float32]:
        """Where one word is looked at, (s, s): its shares, summed over its places where the caption repeats it.

        Args:
            word: one of :attr:`words`.
            stage: which of :attr:`attention`, the last one by default.

        Raises:
            ValueError: ``word`` wasn't read, or the model has no such attention.
        """
        if word not in self.words:
            raise ValueError(f"word is {word!r}, expected one of {', '.join(dict.fromkeys(self.words))}")
        if not -len(self.attention) <= stage < len(self.attention):
            raise ValueError(f"stage is {stage}, expected one of the {len(self.attention)} refinements that look")
        places = [place for place, own in enumerate(self.words) if own == word]
        return self.attention[stage][places].sum(axis=0)
