"""Everything that changes during adversarial training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kvmgan.config import DiscriminatorOptions, ModelOptions, TrainingOptions
from kvmgan.models.compilation import compile_network
from kvmgan.models.finiteness import is_finite
from kvmgan.models.generator import Generator
from kvmgan.parallel.batch_norm import spanning
from kvmgan.training.builders import build_discriminators, build_generator
from kvmgan.training.moving_average import MovingAverage
from kvmgan.training.precision import GuardedOptimizer, Precision


@dataclass
class TrainingState:
    """Networks, moving average and optimisers after ``step`` steps.

    The random numbers of a step and its batch are functions of (seed, step), so that ``step`` is all there is to say
    about random states and the position in the data. ``skipped`` and ``skipped_in_row``, (), int64, on the device,
    count the steps that left a network as it was, because a loss or gradient wasn't finite: all, and the last in a row.
    """

    step: int
    generator: Generator
    average: MovingAverage
    discriminators: nn.ModuleList
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam
    guarded: GuardedOptimizer
    skipped: Tensor
    skipped_in_row: Tensor

    @property
    def optimizers(self) -> dict[str, torch.optim.Adam]:
        """Both optimisers by name."""
        return {"generator": self.generator_optimizer, "discriminator": self.discriminator_optimizer}

    def rate_factor(self, training: TrainingOptions) -> float:
        """The part of the learning rates set that this step has: a function of it and the settings alone."""
        falling = 1 - training.lr_decay_start
        left = 1 - self.step / training.steps
        return min(1.0, left / falling) if falling > 0 else 1.0

    def set_learning_rates(self, training: TrainingOptions) -> None:
        """Give both optimisers the rates of this step."""
        factor = self.rate_factor(training)
        rates = {"generator": training.lr_generator, "discriminator": training.lr_discriminator}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * rates[name]

    def count_skip(self, skipped: Tensor) -> None:
        """Count a step that was ``skipped``, (), bool on the device, or end the row of them."""
        self.skipped += skipped
        self.skipped_in_row = (self.skipped_in_row + 1) * skipped

    def is_finite(self) -> bool:
        """Whether no weight, buffer or average is NaN or infinite."""
        return is_finite(self.generator, self.average.model, self.discriminators)


def initial_state(
    model: ModelOptions,
    discriminator: DiscriminatorOptions,
    training: TrainingOptions,
    word_dim: int,
    precision: Precision,
) -> TrainingState:
    """Networks with the weights of ``training.seed`` on the precision's device, before the first step.

    Args:
        word_dim: length of word and sentence features.
    """
    device = precision.device
    generator = build_generator(model, word_dim, training.seed)
    discriminators = build_discriminators(model.sizes, discriminator, word_dim, training.seed)
    layout = precision.memory_format(training.memory_format)
    if training.sync_batch_norm:
        generator = spanning(generator)
    generator.to(device, memory_format=layout)
    discriminators.to(device, memory_format=layout)
    state = TrainingState(
        0,
        generator,
        MovingAverage(generator, training.ema_decay),
        discriminators,
        torch.optim.Adam(generator.parameters(), training.lr_generator, training.betas, fused=True),
        torch.optim.Adam(discriminators.parameters(), training.lr_discriminator, training.betas, fused=True),
        GuardedOptimizer(precision),
        torch.zeros((), dtype=torch.int64, device=device),
        torch.zeros((), dtype=torch.int64, device=device),
    )
    for network in (generator, *discriminators):
        network.checkpoint_activations = training.checkpoint_activations
        if training.compile:
            compile_network(network)
    return state
