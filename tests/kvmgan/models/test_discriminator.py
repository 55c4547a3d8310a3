"""The discriminators."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from kvmgan.errors import UserError
from kvmgan.models.discriminator import Discriminator


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_shapes(size):
    discriminator = Discriminator(size, width=2, sentence_dim=5)
    features = discriminator(torch.randn(3, 3, size, size))
    assert features.shape == (3, 16, 4, 4)
    assert discriminator.unconditional(features).shape == (3,)
    assert discriminator.conditional(features, torch.randn(3, 5)).shape == (3,)


@pytest.mark.parametrize("size", [16, 128])
def test_gradients_reach_every_parameter_the_image_and_the_sentence(size):
    discriminator = Discriminator(size, width=2, sentence_dim=5)
    images = torch.randn(2, 3, size, size, requires_grad=True)
    sentence = torch.randn(2, 5, requires_grad=True)
    features = discriminator(images)
    (discriminator.unconditional(features) + discriminator.conditional(features, sentence)).sum().backward()
    assert [name for name, p in discriminator.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert images.grad.any()
    assert sentence.grad.any()


def test_weights_have_spectral_norm_one_except_in_the_heads():
    discriminator = Discriminator(32, width=2, sentence_dim=5)
    with torch.no_grad():
        discriminator.joint.parametrizations.weight.original.mul_(10)
        discriminator.conditional_head.weight.mul_(10)
    for _ in range(50):
        discriminator.conditional(discriminator(torch.randn(2, 3, 32, 32)), torch.randn(2, 5))
    discriminator.eval()
    for layer in (*discriminator.trunk[::2], discriminator.joint):
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)
    assert torch.linalg.matrix_norm(discriminator.conditional_head.weight.flatten(1), 2) > 1.5


@pytest.mark.parametrize("size", [16, 128])
@torch.no_grad()
def test_every_convolution_starts_orthogonal_and_normalised(size):
    """In evaluation mode too, right after construction."""
    discriminator = Discriminator(size, width=2, sentence_dim=5).eval()
    convs = {name: layer for name, layer in discriminator.named_modules() if isinstance(layer, nn.Conv2d)}
    for name, conv in convs.items():
        normalised = parametrize.is_parametrized(conv)
        assert normalised != name.endswith("head")
        original = conv.parametrizations.weight.original if normalised else conv.weight
        singular = torch.linalg.svdvals(original.flatten(1))
        torch.testing.assert_close(singular, torch.ones_like(singular))
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-5)


def test_biases_of_convolutions_start_as_torch_draws_them():
    discriminator = Discriminator(16, width=2, sentence_dim=5)
    for bias in (discriminator.joint.bias, discriminator.unconditional_head.bias):
        assert bias.all()


def first_image_gradient(discriminator: Discriminator) -> float:
    """Norm of the unconditional loss's gradient with respect to a few images."""
    images = torch.randn(2, 3, discriminator.size, discriminator.size).tanh().requires_grad_()
    logits = discriminator.unconditional(discriminator(images))
    F.binary_cross_entropy_with_logits(logits, torch.ones(2)).backward()
    return images.grad.norm().item()


def test_first_gradient_at_a_large_image_is_much_larger_than_with_default_weights():
    discriminator = Discriminator(256, width=16)
    orthogonal = first_image_gradient(discriminator)
    for layer in discriminator.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        default = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size).weight.detach()
        if not parametrize.is_parametrized(layer):
            layer.weight.data.copy_(default)
            continue
        layer.weight = default
        # In training mode each read is a step of the power iteration.
        for _ in range(20):
            _ = layer.weight
    # Measured: 18 times at the released width of 32, 9 times at a width of 2.
    assert orthogonal > 7 * first_image_gradient(discriminator)


@torch.no_grad()
def test_images_are_judged_one_by_one():
    """In evaluation mode a logit doesn't depend on the rest of the batch, and the conditional one on the sentence."""
    discriminator = Discriminator(16, width=2, sentence_dim=5).eval()
    images, sentence = torch.randn(3, 3, 16, 16), torch.randn(3, 5)
    features = discriminator(images)
    logits = discriminator.conditional(features, sentence)
    for i in range(3):
        alone = discriminator.conditional(discriminator(images[i : i + 1]), sentence[i : i + 1])
        torch.testing.assert_close(alone, logits[i : i + 1])
    assert not torch.isclose(discriminator.conditional(features, -sentence), logits).any()


@pytest.mark.parametrize("size", [8, 48])
def test_impossible_size_is_named(size):
    with pytest.raises(UserError, match=f"size is {size}, expected a power of two, 16 or more"):
        Discriminator(size)


def test_images_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"images is \(1, 3, 16, 16\), expected \(B, 3, 32, 32\)"):
        Discriminator(32, width=2)(torch.randn(1, 3, 16, 16))
