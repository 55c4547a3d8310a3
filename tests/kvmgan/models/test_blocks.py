"""Blocks."""

import torch
from torch import nn

from kvmgan.models.blocks import ResidualBlock, UpsampleBlock


def test_residual_block_adds_its_input():
    block = ResidualBlock(4).eval()
    nn.init.zeros_(block.norm2.weight)
    features = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(features), features)


def test_upsample_block_doubles_the_size():
    assert UpsampleBlock(6, 4)(torch.randn(2, 6, 5, 3)).shape == (2, 4, 10, 6)
