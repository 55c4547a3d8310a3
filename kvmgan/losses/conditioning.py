"""The conditioning augmentation loss (KVM-GAN, section 3.3)."""

import torch
from torch import Tensor


def conditioning_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag(exp(logvar))) || N(0, I)), averaged over elements as the released AttnGAN and DM-GAN do.

    mean over batch and dimensions of  -(1 + logvar - mu^2 - exp(logvar)) / 2 ,  which is the divergence
    divided by the condition's length. Computed in float32 at least.

    Args:
        mu: (B, condition_dim).
        logvar: (B, condition_dim).
    """
    dtype = torch.promote_types(mu.dtype, torch.float32)
    mu, logvar = mu.to(dtype), logvar.to(dtype)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
