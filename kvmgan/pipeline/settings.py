"""What decides the networks that draw, and nothing of how they were trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvmgan.bounds import Count
from kvmgan.config import ModelOptions


@dataclass(frozen=True)
class PipelineSettings:
    """The generator, the sizes of the text encoder, how much of a caption is read, and how noise is chosen."""

    model: ModelOptions = field(default_factory=ModelOptions)
    embedding_dim: Count = 300
    """Length of a word embedding [numbers]."""
    word_dim: Count = 256
    """Length of word and sentence features [numbers]."""
    max_words: Count = 25
    """Words kept of a caption [words]; a longer one keeps its first ones."""
    tries: Count = 1
    """Noises that a picture chooses from [noises] where the call names no number."""

    @property
    def noise_dims(self) -> tuple[int, int]:
        """Lengths of the noise and of the condition's noise, which are drawn together [numbers]."""
        return self.model.noise_dim, self.model.condition_dim
