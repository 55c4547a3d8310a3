"""What the tests of the networks share."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kvmgan.models.text_encoder import word_mask


class Captions(NamedTuple):
    """A batch of encoded captions."""

    sentence: Tensor
    words: Tensor
    mask: Tensor


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def captions() -> Captions:
    """Four captions of 7, 1, 3 and 5 words, feature length 12."""
    lengths = torch.tensor([7, 1, 3, 5])
    return Captions(torch.randn(4, 12), torch.randn(4, 7, 12), word_mask(lengths, 7))
