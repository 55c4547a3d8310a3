"""Networks of the sizes that the options ask for."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from kvmgan.config import Options
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.image_encoder import SmallImageEncoder
from kvmgan.models.text_encoder import TextEncoder


def build_generator(options: Options) -> Generator:
    """The generator with random weights drawn from ``training.seed``: the same ones on every call."""
    model = options.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.training.seed)
        return Generator(
            stages=model.stages,
            base_size=model.base_size,
            width=model.width,
            noise_dim=model.noise_dim,
            condition_dim=model.condition_dim,
            sentence_dim=options.damsm.word_dim,
            word_dim=options.damsm.word_dim,
            refinement=model.refinement,
            residual_blocks=model.residual_blocks,
            memory_options=dataclasses.asdict(model.memory) if model.refinement == "memory" else None,
        )


def build_discriminators(options: Options) -> nn.ModuleList:
    """One discriminator a stage with random weights drawn from ``training.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.training.seed + 1)
        return nn.ModuleList(
            Discriminator(size, width=options.discriminator.width, sentence_dim=options.damsm.word_dim)
            for size in options.sizes
        )


def build_text_encoder(options: Options, vocabulary_size: int) -> TextEncoder:
    """The DAMSM text encoder for a vocabulary of that many words, padding included."""
    damsm = options.damsm
    return TextEncoder(
        vocabulary_size, embedding_dim=damsm.embedding_dim, word_dim=damsm.word_dim, dropout=damsm.dropout
    )


def build_image_encoder(options: Options, *, pretrained: bool = False) -> nn.Module:
    """The DAMSM image encoder that ``damsm.encoder`` names; ``pretrained``: from ImageNet weights if Inception."""
    damsm = options.damsm
    if damsm.encoder == "inception":
        # Imported here: only this encoder needs torchvision.
        from kvmgan.models.inception_encoder import InceptionImageEncoder

        weights = (damsm.inception_weights or "imagenet") if pretrained else None
        return InceptionImageEncoder(feature_dim=damsm.word_dim, weights=weights)
    return SmallImageEncoder(feature_dim=damsm.word_dim, width=damsm.width)
