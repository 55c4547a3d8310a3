"""Blocks and initialisation."""

import torch
import torch.nn.functional as F
from torch import nn

from kvmgan.models.blocks import ResidualBlock, UpsampleBlock, enlarging_conv, gated, initialise_weights


def test_enlarging_conv_is_nearest_enlargement_then_convolution():
    """Values and both gradients, at the borders too."""
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(F.interpolate(features, scale_factor=2.0, mode="nearest"), weight, padding=1)
    actual = enlarging_conv(features, weight)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, (features, weight), upstream)
    actual_gradients = torch.autograd.grad(actual, (features, weight), upstream)
    torch.testing.assert_close(actual_gradients, expected_gradients)


def test_gated_is_glu():
    features = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(gated(features), F.glu(features, dim=1))


def test_residual_block_adds_its_input():
    block = ResidualBlock(4).eval()
    nn.init.zeros_(block.norm2.weight)
    features = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(features), features)


def test_upsample_block_doubles_the_size():
    assert UpsampleBlock(6, 4)(torch.randn(2, 6, 5, 3)).shape == (2, 4, 10, 6)


def test_initialisation_is_orthogonal_and_near_one():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Linear(6, 5))
    model.apply(initialise_weights)
    rows = model[0].weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(model[2].weight @ model[2].weight.T, torch.eye(5), atol=1e-5, rtol=0)
    assert not model[2].bias.any()
    assert not model[1].bias.any()
    assert 0 < (model[1].weight - 1).abs().max() < 0.1
