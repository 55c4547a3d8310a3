"""Generator and discriminators of the sizes that the settings ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from kvmgan.config import DiscriminatorOptions, ModelOptions
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.random_streams import torch_stream

_CPU = torch.device("cpu")


def build_generator(model: ModelOptions, word_dim: int, seed: int) -> Generator:
    """The generator for features of length ``word_dim``, with the seed's weights: the same ones on every call."""
    with torch_stream(_CPU, seed, "generator weights"):
        return Generator(
            stages=model.stages,
            base_size=model.base_size,
            width=model.width,
            noise_dim=model.noise_dim,
            condition_dim=model.condition_dim,
            sentence_dim=word_dim,
            word_dim=word_dim,
            refinement=model.refinement,
            residual_blocks=model.residual_blocks,
            legacy_mask=model.legacy_mask,
            memory_options=dataclasses.asdict(model.memory) if model.refinement == "memory" else None,
        )


def build_discriminators(
    sizes: Sequence[int], discriminator: DiscriminatorOptions, word_dim: int, seed: int
) -> nn.ModuleList:
    """One discriminator a size [pixels] for sentences of length ``word_dim``, with the seed's weights."""
    with torch_stream(_CPU, seed, "discriminator weights"):
        options = {"width": discriminator.width, "detail_gain": discriminator.detail_gain, "sentence_dim": word_dim}
        return nn.ModuleList(Discriminator(size, **options) for size in sizes)
