"""The conditioning augmentation loss."""

import torch
from torch.distributions import Normal, kl_divergence

from kvmgan.losses.conditioning import conditioning_kl


def test_it_is_the_mean_divergence_from_the_standard_normal():
    mu, logvar = torch.randn(3, 5), torch.randn(3, 5)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(conditioning_kl(mu, logvar), expected)


def test_it_is_zero_at_the_standard_normal():
    assert conditioning_kl(torch.zeros(2, 4), torch.zeros(2, 4)) == 0


def test_it_is_computed_in_float32():
    mu, logvar = torch.randn(3, 5), torch.randn(3, 5)
    loss = conditioning_kl(mu.bfloat16(), logvar.bfloat16())
    torch.testing.assert_close(loss, conditioning_kl(mu.bfloat16().float(), logvar.bfloat16().float()))
    assert loss.dtype == torch.float32
