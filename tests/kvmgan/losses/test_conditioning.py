"""The conditioning augmentation loss."""

import torch
from torch.distributions import Normal, kl_divergence

from kvmgan.losses.conditioning import conditioning_kl


def test_it_is_the_mean_divergence_from_the_standard_normal():
    mu, log_variance = torch.randn(3, 5), torch.randn(3, 5)
    expected = kl_divergence(Normal(mu, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(conditioning_kl(mu, log_variance), expected)


def test_it_is_zero_at_the_standard_normal():
    assert conditioning_kl(torch.zeros(2, 4), torch.zeros(2, 4)) == 0


def test_it_is_computed_in_float32():
    mu, log_variance = torch.randn(3, 5), torch.randn(3, 5)
    loss = conditioning_kl(mu.bfloat16(), log_variance.bfloat16())
    torch.testing.assert_close(loss, conditioning_kl(mu.bfloat16().float(), log_variance.bfloat16().float()))
    assert loss.dtype == torch.float32
