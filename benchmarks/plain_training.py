"""A plain step of adversarial training, as the released code does it, to hold `kvmgan.training.step` against.

The same networks, losses and random numbers, in eager float32: the response concatenated with itself before it is
convolved, nearest upsampling before the 3x3 convolution, the eager memory layer, real and fake pictures in passes of
their own, torch's spectral normalisation, one graph for all of the generator's losses, torch's Adam, the moving average
one tensor after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from kvmgan.config import DamsmOptions, TrainingOptions
from kvmgan.data.pixels import to_scales
from kvmgan.data.samples import Batch
from kvmgan.losses.conditioning import conditioning_kl
from kvmgan.losses.damsm import damsm_loss
from kvmgan.models.blocks import ResidualBlock, UpsampleBlock
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.pretraining.encoders import Encoders
from kvmgan.random_streams import normal_noise


class PlainTraining:
    """Trains a generator, whose memory layers must have the eager backend, and its discriminators."""

    def __init__(
        self,
        generator: Generator,
        average: Generator,
        discriminators: Sequence[Discriminator],
        encoders: Encoders,
        training: TrainingOptions,
        damsm: DamsmOptions,
    ):
        self.generator, self.average = generator, average
        self.discriminators = [with_torch_spectral_norm(net) for net in discriminators]
        self.encoders, self.training = encoders, training
        self.gammas = {"gamma1": damsm.gamma1, "gamma2": damsm.gamma2, "gamma3": damsm.gamma3}
        rate = training.lr_discriminator
        self.discriminator_optimizers = [torch.optim.Adam(d.parameters(), rate, training.betas) for d in discriminators]
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), training.lr_generator, training.betas)
        self.steps = 0

    def step(self, batch: Batch) -> dict[str, float]:
        """Train on one batch; returns the losses."""
        images = to_scales(batch.pixels, self.generator.sizes)
        words, sentence, mask = self.encoders.encode(batch.tokens, batch.lengths)
        dims = self.generator.noise_dim, self.generator.condition_dim
        drawn = normal_noise((len(sentence), sum(dims)), self.training.seed, "training noise", self.steps)
        noise, condition_noise = drawn.to(sentence.dtype).split(dims, dim=1)
        fakes, mu, log_variance = plain_generator(self.generator, noise, sentence, words, mask, condition_noise)
        losses = {}
        pairs = zip(self.discriminators, self.discriminator_optimizers, images, fakes, strict=True)
        for net, optimizer, real, fake in pairs:
            net.zero_grad()
            loss = plain_discriminator_loss(net, real.to(sentence.dtype), fake.detach(), sentence)
            loss.backward()
            optimizer.step()
            losses[f"d{net.size}"] = loss.item()
        self.generator.zero_grad()
        total = self.training.kl_weight * conditioning_kl(mu, log_variance)
        for net, fake in zip(self.discriminators, fakes, strict=True):
            features = net(fake)
            loss = cross_entropy(net.unconditional(features), 1.0) + cross_entropy(
                net.conditional(features, sentence), 1.0
            )
            losses[f"g{net.size}"] = loss.item()
            total = total + loss
        by_word, by_sentence = damsm_loss(
            self.encoders.image(fakes[-1]), words, sentence, mask, batch.class_ids, **self.gammas
        )
        total = total + self.training.lambda_damsm * (by_word + by_sentence)
        total.backward()
        self.generator_optimizer.step()
        self._average()
        self.steps += 1
        return losses | {"g": total.item()}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.training.ema_decay, (1 + self.steps) / (10 + self.steps))
        new = self.generator.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.mul_(decay).add_(new[name], alpha=1 - decay)
            else:
                value.copy_(new[name])


def with_torch_spectral_norm(net: Discriminator) -> Discriminator:
    """The same discriminator, its weights normalised by torch's own parametrisation; changed in place."""
    for parent in list(net.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and parametrize.is_parametrized(conv):
                shape = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
                same = spectral_norm(nn.Conv2d(*shape, device=conv.bias.device, dtype=conv.bias.dtype))
                same.load_state_dict(conv.state_dict())
                setattr(parent, name, same)
    return net


def plain_generator(
    generator: Generator, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, condition_noise: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Pictures, mu and log_variance of the generator's modules, put together in the plainest way."""
    condition, mu, log_variance = generator.conditioning(sentence, condition_noise)
    initial = generator.initial
    features = F.glu(initial.norm(initial.fc(torch.cat((condition, noise), dim=1))), dim=1)
    features = features.view(len(noise), -1, 4, 4)
    for block in initial.blocks:
        features = plain_upsampling(block, features)
    images = [generator.heads[0](features)]
    for stage, head in zip(generator.refinements, generator.heads[1:], strict=True):
        if stage.refinement == "memory":
            response = stage.memory(features, words, mask)
            joined = torch.cat((response, response), dim=1)
        elif stage.refinement == "attention":
            joined = torch.cat((features, stage.attention(features, words, mask)[0]), dim=1)
        else:
            joined = torch.cat((features, features), dim=1)
        for residual in stage.residual:
            joined = plain_residual(residual, joined)
        features = plain_upsampling(stage.upsample, joined)
        images.append(head(features))
    return images, mu, log_variance


def plain_upsampling(block: UpsampleBlock, features: Tensor) -> Tensor:
    """Nearest upsampling by two, convolution, normalisation, GLU."""
    return F.glu(block.norm(block.conv(F.interpolate(features, scale_factor=2, mode="nearest"))), dim=1)


def plain_residual(block: ResidualBlock, features: Tensor) -> Tensor:
    """The block as its name says."""
    return features + block.norm2(block.conv2(F.glu(block.norm1(block.conv1(features)), dim=1)))


def plain_discriminator_loss(net: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor) -> Tensor:
    """Equation of the draft's section 3.3, every verdict from a pass of its own."""
    real_features, fake_features = net(real), net(fake)
    mismatched = torch.cat((real_features[-1:], real_features[:-1]))
    right = cross_entropy(net.unconditional(real_features), 1.0) + cross_entropy(
        net.conditional(real_features, sentence), 1.0
    )
    wrong = (
        cross_entropy(net.unconditional(fake_features), 0.0)
        + cross_entropy(net.conditional(fake_features, sentence), 0.0)
        + cross_entropy(net.conditional(mismatched, sentence), 0.0)
    )
    return right / 2 + wrong / 3


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits against one target for all."""
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
