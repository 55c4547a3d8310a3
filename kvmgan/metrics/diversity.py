"""Diversity of a caption's pictures: text-to-image GANs collapse there, and no distance between data sets shows it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def mean_pairwise_distance(features: Tensor) -> Tensor:
    """Mean cosine distance of all pairs of K pictures of the same caption, (..., K, D) -> (...), K at least 2.

    0 where all pictures are one, 1 where their features are orthogonal.
    """
    count = features.shape[-2]
    if count < 2:
        raise ValueError(f"features are of {count} picture a caption, expected 2 or more")
    # The sum of all cosines is the squared length of the sum; a vector with itself makes 1.
    total = F.normalize(features.double(), dim=-1).sum(dim=-2).square().sum(dim=-1)
    return 1 - (total - count) / (count * (count - 1))


def distance_within_classes(features: Tensor, class_ids: np.ndarray) -> float | None:
    """The same of real pictures: mean over classes of two pictures or more; None where there is no such class.

    Args:
        features: (N, D). class_ids: (N,).
    """
    parts = [features[torch.from_numpy(np.flatnonzero(class_ids == one))] for one in np.unique(class_ids)]
    distances = [mean_pairwise_distance(part) for part in parts if len(part) > 1]
    return torch.stack(distances).mean().item() if distances else None
