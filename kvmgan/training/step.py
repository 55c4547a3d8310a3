"""One step of adversarial training (KVM-GAN, section 3.3)."""

from __future__ import annotations

import nvtx
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from kvmgan.config import Options
from kvmgan.data.dataset import Batch
from kvmgan.losses.adversarial import discriminator_loss, generator_loss
from kvmgan.losses.conditioning import conditioning_kl
from kvmgan.models.generator import GeneratorOutput
from kvmgan.training.damsm import damsm_loss
from kvmgan.training.device import autocast
from kvmgan.training.encoders import Encoders
from kvmgan.training.state import TrainingState, step_noise


def training_step(state: TrainingState, batch: Batch, encoders: Encoders, options: Options) -> dict[str, Tensor]:
    """Train the discriminators, then the generator, on one batch, and advance the average and ``state.step``.

    One generator pass serves both, as in the released code. Returns the losses by name, detached, on the device.
    """
    device = batch.tokens.device
    words, sentence, mask = encoders.encode(batch.tokens, batch.lengths)
    noise, condition_noise = step_noise(options, state.step, device)
    with nvtx.annotate("generate"), autocast(device, options.training.precision):
        made = state.generator(noise, sentence, words, mask, condition_noise=condition_noise)
    with nvtx.annotate("discriminators"):
        losses = _discriminator_step(state, batch, made.images, sentence, options)
    with nvtx.annotate("generator"):
        losses |= _generator_step(state, batch, made, words, sentence, encoders, options)
    with nvtx.annotate("moving average"):
        state.average.update(state.generator, state.step)
    state.step += 1
    return losses


def _discriminator_step(
    state: TrainingState, batch: Batch, fakes: list[Tensor], sentence: Tensor, options: Options
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = {}
    total = torch.zeros((), device=sentence.device)
    # Cached: a spectral norm is computed once a pass, however often its weight is read.
    with autocast(sentence.device, options.training.precision), parametrize.cached():
        for size, net, real, fake in zip(options.sizes, state.discriminators, batch.images, fakes, strict=True):
            loss, parts = discriminator_loss(net, real, fake, sentence)
            losses[f"d{size}"] = loss.detach()
            losses |= {f"d{size}_{name}": value for name, value in parts.items()}
            total = total + loss
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    total.backward()
    state.discriminator_optimizer.step()
    return losses


def _generator_step(
    state: TrainingState,
    batch: Batch,
    made: GeneratorOutput,
    words: Tensor,
    sentence: Tensor,
    encoders: Encoders,
    options: Options,
) -> dict[str, Tensor]:
    training = options.training
    losses: dict[str, Tensor] = {}
    state.discriminators.requires_grad_(False)
    with autocast(sentence.device, training.precision), parametrize.cached():
        kl = conditioning_kl(made.mu, made.logvar)
        total = training.kl_weight * kl
        for size, net, fake in zip(options.sizes, state.discriminators, made.images, strict=True):
            loss, _ = generator_loss(net, fake, sentence)
            losses[f"g{size}"] = loss.detach()
            total = total + loss
        by_word, by_sentence = damsm_loss(encoders.image, made.images[-1], words, sentence, batch, options.damsm)
        total = total + training.lambda_damsm * (by_word + by_sentence)
    state.generator_optimizer.zero_grad(set_to_none=True)
    total.backward()
    state.generator_optimizer.step()
    state.discriminators.requires_grad_(True)
    return losses | {
        "g": total.detach(),
        "kl": kl.detach(),
        "damsm_word": by_word.detach(),
        "damsm_sentence": by_sentence.detach(),
    }
