"""Where and how the arithmetic runs."""

from __future__ import annotations

import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.training.device import resolve_device, set_products


@pytest.mark.parametrize("wanted", [True, False])
def test_products_on_gpus_follow_the_settings(wanted):
    """TF32 in matrix products and convolutions alike, cuDNN's search by itself."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )
    try:
        set_products(tf32=wanted, benchmark=not wanted)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is wanted
        assert torch.backends.cudnn.benchmark is not wanted
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.backends.cudnn.benchmark = before[2]


def test_the_option_that_was_given_is_blamed():
    for option in ("--training.device", "--device"):
        with pytest.raises(UserError, match=f"^{option} is 'tpu'"):
            resolve_device("tpu", option)
