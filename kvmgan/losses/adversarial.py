"""The adversarial losses (KVM-GAN, section 3.3, with the mismatched pairs of AttnGAN's released code)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kvmgan.models.discriminator import Discriminator


def _real_loss(logits: Tensor) -> Tensor:
    """-mean log sigmoid(logits), in float32."""
    return F.softplus(-logits.float()).mean()


def _fake_loss(logits: Tensor) -> Tensor:
    """-mean log(1 - sigmoid(logits)), in float32."""
    return F.softplus(logits.float()).mean()


def discriminator_loss(
    discriminator: Discriminator, real: Tensor, fake: Tensor, sentence: Tensor, mismatched: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one stage's discriminator.

    (real unconditional + real conditional) / 2
    + (fake unconditional + fake conditional + mismatched conditional) / 3, each a binary cross-entropy.

    Args:
        discriminator: of the images' size.
        real: (B, 3, s, s) real images.
        fake: (B, 3, s, s) generated images of the same sentences; detached here.
        sentence: (B, S) sentence features.
        mismatched: (B, S) sentence features of other images, that of the next one in the batch as released.

    Returns:
        The loss, and its detached parts: cross-entropies ``real_unconditional``, ``real_conditional``,
        ``fake_unconditional``, ``fake_conditional``, ``mismatched``, and mean probabilities of being
        real ``real_probability`` and ``fake_probability``, and ``accuracy``, the share of real and fake images that are
        told as such (these three unconditional).

    Raises:
        ValueError: batches of different sizes.
    """
    batch = len(real)
    if not batch == len(fake) == len(sentence) == len(mismatched):
        sizes = f"{batch}, {len(fake)}, {len(sentence)} and {len(mismatched)}"
        raise ValueError(f"real, fake, sentence and mismatched have batches of {sizes}")
    # One pass over both: nothing in the discriminator mixes images, and spectral norms are estimated once.
    # Both rounded alike: 16 bits on one side alone would tell them apart.
    real_features, fake_features = discriminator(torch.cat((real.to(fake.dtype), fake.detach()))).chunk(2)
    real_logits, fake_logits = discriminator.unconditional(torch.cat((real_features, fake_features))).chunk(2)
    matched, faked, wrong = discriminator.conditional(
        torch.cat((real_features, fake_features, real_features)), torch.cat((sentence, sentence, mismatched))
    ).chunk(3)
    parts = {
        "real_unconditional": _real_loss(real_logits),
        "real_conditional": _real_loss(matched),
        "fake_unconditional": _fake_loss(fake_logits),
        "fake_conditional": _fake_loss(faked),
        "mismatched": _fake_loss(wrong),
    }
    loss = (parts["real_unconditional"] + parts["real_conditional"]) / 2
    loss = loss + (parts["fake_unconditional"] + parts["fake_conditional"] + parts["mismatched"]) / 3
    parts["accuracy"] = torch.cat((real_logits > 0, fake_logits < 0)).float().mean()
    parts["real_probability"] = real_logits.float().sigmoid().mean()
    parts["fake_probability"] = fake_logits.float().sigmoid().mean()
    return loss, {name: part.detach() for name, part in parts.items()}


def generator_loss(discriminator: Discriminator, fake: Tensor, sentence: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Adversarial loss of the generator at one stage: unconditional + conditional cross-entropy against "real".

    Gradients also reach the discriminator's parameters unless the caller turns their ``requires_grad``
    off, which saves a third of the backward pass.

    Args:
        discriminator: of the images' size.
        fake: (B, 3, s, s) generated images.
        sentence: (B, S) sentence features.

    Returns:
        The loss, and its detached parts ``unconditional`` and ``conditional``.
    """
    features = discriminator(fake)
    parts = {
        "unconditional": _real_loss(discriminator.unconditional(features)),
        "conditional": _real_loss(discriminator.conditional(features, sentence)),
    }
    loss = parts["unconditional"] + parts["conditional"]
    return loss, {name: part.detach() for name, part in parts.items()}


def gradient_penalty(discriminator: Discriminator, real: Tensor, sentence: Tensor) -> Tensor:
    """Zero-centred gradient penalty on real pairs, in float32 at least: half the mean squared gradient of their logits.

    mean over pairs of  (|d l / d real|^2 + |d l / d sentence|^2) / 2  with l the unconditional and the conditional
    logit's sum: R1 (Mescheder et al., 2018, equation 9 without its factor) at pictures with their sentences, where
    DF-GAN (Tao et al., 2022, section 3.3) has its matching-aware penalty. Differentiable by the discriminator's
    parameters.

    Args:
        discriminator: of the images' size.
        real: (B, 3, s, s) real images.
        sentence: (B, S) sentence features.
    """
    real, sentence = (
        given.detach().to(torch.promote_types(given.dtype, torch.float32)).requires_grad_()
        for given in (real, sentence)
    )
    with torch.autocast(real.device.type, enabled=False):
        features = discriminator.plain_features(real)
        logits = discriminator.unconditional(features) + discriminator.conditional(features, sentence)
        gradients = torch.autograd.grad(logits.sum(), (real, sentence), create_graph=True)
    return sum(gradient.square().sum() for gradient in gradients) / (2 * len(real))
