"""A tiny training problem: random encoders, one batch, networks before their first step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kvmgan.config import DamsmOptions, DiscriminatorOptions, MemoryOptions, ModelOptions, Options, TrainingOptions
from kvmgan.data.samples import Batch
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.pretraining.encoders import Encoders, EncoderShape, build_image_encoder, build_text_encoder
from kvmgan.training.precision import Precision
from kvmgan.training.state import TrainingState, initial_state
from kvmgan.training.step import TrainingStep

CPU = torch.device("cpu")
WORDS = 5


def tiny_options(backend: str | None = None, **training: Any) -> Options:
    """16 -> 32 pixels, batch 4, everything narrow; ``training``: settings of the training to change."""
    settings = {"batch_size": 4, "lambda_damsm": 2.0} | training
    return Options(
        model=ModelOptions(
            stages=2,
            base_size=16,
            width=4,
            noise_dim=6,
            condition_dim=5,
            residual_blocks=1,
            memory=MemoryOptions(backend=backend),
        ),
        discriminator=DiscriminatorOptions(width=4),
        damsm=DamsmOptions(encoder="small", width=4, embedding_dim=8, word_dim=8),
        training=replace(TrainingOptions(), **settings),
    )


def tiny_encoders(options: Options) -> Encoders:
    """Frozen encoders with random weights, for a vocabulary of four words."""
    shape = EncoderShape.of(options.damsm)
    torch.manual_seed(1)
    text, image = build_text_encoder(shape, WORDS).eval(), build_image_encoder(shape).eval()
    vocabulary = Vocabulary(["a", "red", "blue", "bird"])
    return Encoders(vocabulary, shape, text.requires_grad_(False), image.requires_grad_(False), None)


def tiny_batch(options: Options, seed: int = 0) -> Batch:
    """Random pixels and captions of one to four words."""
    rng = torch.Generator().manual_seed(seed)
    count, side = options.training.batch_size, options.sizes[-1]
    lengths = torch.tensor([1 + number % 4 for number in range(count)])
    tokens = torch.randint(1, WORDS, (count, 4), generator=rng)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=rng, dtype=torch.uint8)
    numbers = torch.arange(count)
    return Batch(pixels, tokens * (torch.arange(4) < lengths[:, None]), lengths, numbers, numbers, numbers * 0)


def tiny_step(options: Options, device: torch.device = CPU) -> tuple[TrainingStep, TrainingState]:
    """The step and the state before it."""
    precision = Precision.choose(options.training.precision, device)
    state = initial_state(options.model, options.discriminator, options.training, options.damsm.word_dim, precision)
    return TrainingStep(tiny_encoders(options).to(device), options.training, options.damsm, precision), state


def assert_near(mine: Tensor, wanted: Tensor) -> None:
    """Equal but for float32's rounding of the losses."""
    torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item() + 1e-9)
