"""Diversity of a caption's pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kvmgan.metrics.diversity import distance_within_classes, mean_pairwise_distance


def test_mean_over_all_pairs():
    features = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = [
        np.mean([1 - F.cosine_similarity(x, y, dim=0).item() for x, y in itertools.combinations(caption, 2)])
        for caption in features
    ]
    assert mean_pairwise_distance(features).tolist() == pytest.approx(expected, abs=1e-6)


def test_one_picture_again_and_again_has_none_and_orthogonal_ones_have_one():
    same = torch.ones(1, 4, 3) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]
    assert mean_pairwise_distance(same).item() == pytest.approx(0, abs=1e-12)
    assert mean_pairwise_distance(torch.eye(4)).item() == 1


def test_a_single_picture_is_refused():
    with pytest.raises(ValueError, match="1 picture a caption"):
        mean_pairwise_distance(torch.ones(5, 1, 3))


def test_classes_of_two_pictures_or_more_are_averaged():
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [5, 5]])
    assert distance_within_classes(features, np.array([7, 3, 3, 7, 9])) == pytest.approx((1 + 0) / 2)
    assert distance_within_classes(features, np.arange(5)) is None
