"""The discriminators."""

import pytest
import torch

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
