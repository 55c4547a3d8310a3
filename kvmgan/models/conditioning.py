"""Conditioning augmentation (StackGAN, section 3.2; KVM-GAN, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConditioningAugmentation(nn.Module):
    """Sentence feature to a condition drawn from N(mu, diag(exp(log_variance))): linear, GLU, split in two.

    Args:
        sentence_dim: length of the sentence feature.
        condition_dim: length of the condition.
    """

    def __init__(self, sentence_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(sentence_dim, 4 * condition_dim)

    def forward(self, sentence: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the condition, mu and log_variance, each (B, condition_dim).

        Args:
            sentence: (B, sentence_dim).
            noise: (B, condition_dim), standard normal; zeros give mu. ``None``: drawn from torch's default
                generator, in evaluation mode too.
        """
        mu, log_variance = F.glu(self.fc(sentence), dim=1).chunk(2, dim=1)
        if noise is None:
            noise = torch.randn_like(mu)
        return mu + noise * torch.exp(0.5 * log_variance), mu, log_variance
