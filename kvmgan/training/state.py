"""Everything that changes during adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kvmgan.config import Options
from kvmgan.models.generator import Generator
from kvmgan.training.builders import build_discriminators, build_generator
from kvmgan.training.moving_average import MovingAverage


@dataclass
class TrainingState:
    """Networks, moving average and optimisers after ``step`` steps.

    The random numbers of a step and its batch are functions of (seed, step), so that ``step`` is all there is to say
    about random states and the position in the data.
    """

    step: int
    generator: Generator
    average: MovingAverage
    discriminators: nn.ModuleList
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam

    def is_finite(self) -> bool:
        """Whether no weight, buffer or average is NaN or infinite."""
        modules = (self.generator, self.average.model, self.discriminators)
        return all(bool(t.isfinite().all()) for module in modules for t in module.state_dict().values())


def initial_state(options: Options, device: torch.device) -> TrainingState:
    """Networks with the weights of ``training.seed``, moved to the device, before the first step."""
    training = options.training
    generator = build_generator(options).to(device)
    discriminators = build_discriminators(options).to(device)
    return TrainingState(
        0,
        generator,
        MovingAverage(generator, training.ema_decay),
        discriminators,
        torch.optim.Adam(generator.parameters(), training.lr_generator, training.betas, fused=True),
        torch.optim.Adam(discriminators.parameters(), training.lr_discriminator, training.betas, fused=True),
    )


def step_noise(options: Options, step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise (B, Z) and condition noise (B, condition_dim) of a step: a function of (seed, step) alone."""
    source = torch.Generator().manual_seed((options.training.seed << 40) + step)
    shape = options.training.batch_size, options.model.noise_dim + options.model.condition_dim
    drawn = torch.randn(shape, generator=source).to(device)
    noise, condition = drawn.split((options.model.noise_dim, options.model.condition_dim), dim=1)
    return noise, condition
