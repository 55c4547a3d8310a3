"""The conditioning augmentation loss (KVM-GAN, section 3.3)."""

import torch
from torch import Tensor


def conditioning_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, diag(exp(log_variance))) || N(0, I)), averaged over elements as the released AttnGAN and DM-GAN do.

    mean over batch and dimensions of  -(1 + log_variance - mu^2 - exp(log_variance)) / 2 ,  which is the divergence
    divided by the condition's length. Computed in float32 at least.

    Args:
        mu: (B, condition_dim).
        log_variance: (B, condition_dim).
    """
    dtype = torch.promote_types(mu.dtype, torch.float32)
    mu, log_variance = mu.to(dtype), log_variance.to(dtype)
    return -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).mean()
