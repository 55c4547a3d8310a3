"""Blocks."""

import torch
import torch.nn.functional as F
from torch import nn

from kvmgan.models.blocks import ResidualBlock, UpsampleBlock, gated


def test_gated_is_glu():
    features = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(gated(features), F.glu(features, dim=1))
    image = torch.randn(2, 6, 3, 5).to(memory_format=torch.channels_last)
    torch.testing.assert_close(gated(image), F.glu(image, dim=1))
    assert gated(image).is_contiguous(memory_format=torch.channels_last)
    assert gated(image.contiguous()).is_contiguous()


def test_residual_block_adds_its_input():
    block = ResidualBlock(4).eval()
    nn.init.zeros_(block.norm2.weight)
    features = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(features), features)


def test_upsample_block_doubles_the_size():
    assert UpsampleBlock(6, 4)(torch.randn(2, 6, 5, 3)).shape == (2, 4, 10, 6)
