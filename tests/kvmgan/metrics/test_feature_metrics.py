"""Distances, precision and recall and Inception Score against their papers' formulas, written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kvmgan.metrics.feature_metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    subset_size,
)


def drawn(count: int, shift: float, scale: float = 1.0, length: int = 6, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, length, generator=source) + shift


def test_frechet_distance_by_eigenvalues_of_a_symmetric_product():
    """|m - n|² + tr(A + B - 2 (A^½ B A^½)^½), covariances by the sums of squares over n - 1."""
    generated, real = drawn(50, 0.3, seed=1), drawn(40, 0.0, 1.5, seed=2)
    first, second = generated.double().numpy(), real.double().numpy()
    covariances = []
    for features in (first, second):
        centred = features - features.mean(axis=0)
        covariances.append(centred.T @ centred / (len(features) - 1))
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root)).sum()
    gap = first.mean(axis=0) - second.mean(axis=0)
    expected = gap @ gap + sum(np.trace(covariance) for covariance in covariances) - 2 * middle
    assert frechet_distance(generated, real) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-4)


def test_kernel_distance_of_all_pictures_in_a_loop():
    """One subset is everything: the unbiased estimate over all pairs of different pictures."""
    generated, real = drawn(30, 0.3, seed=1), drawn(30, 0.0, seed=2)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / 6 + 1) ** 3

    def own(features: Tensor) -> float:
        return sum(kernel(x, y) for i, x in enumerate(features) for j, y in enumerate(features) if i != j) / (30 * 29)

    crossed = sum(kernel(x, y) for x in generated for y in real) / 30**2
    found = kernel_distance(generated, real)
    assert found.mean == pytest.approx(own(generated) + own(real) - 2 * crossed, rel=1e-4)
    assert found.std == pytest.approx(0, abs=1e-6)


def test_subsets_are_no_larger_than_the_smaller_set():
    assert (subset_size(30000, 30000), subset_size(5000, 700), subset_size(20, 700)) == (1000, 700, 20)
    assert kernel_distance(drawn(40, 0.0, seed=1), drawn(25, 0.0, seed=2)).std > 0


def test_precision_and_recall_in_a_loop():
    """Balls to the third neighbour; generated pictures in the middle of the real ones: high precision, low recall."""
    generated, real = drawn(40, 0.0, 0.4, length=2, seed=1), drawn(60, 0.0, 1.0, length=2, seed=2)

    def covered(points: Tensor, centres: Tensor) -> float:
        hits = 0
        for point in points:
            for centre in centres:
                radius = sorted(float((centre - other).norm()) for other in centres)[3]
                if float((point - centre).norm()) <= radius:
                    hits += 1
                    break
        return hits / len(points)

    precision, recall = precision_recall(generated, real)
    assert precision == pytest.approx(covered(generated, real), abs=1e-6)
    assert recall == pytest.approx(covered(real, generated), abs=1e-6)
    assert precision > 0.9 > 0.7 > recall


def test_inception_score_by_its_definition():
    """Over ten splits of pictures in torch-fidelity's order: exp of the mean divergence from the split's mean."""
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)).mul(2)
    order = np.random.RandomState(2020).permutation(200)
    classes = np.exp(logits.double().numpy())[order]
    classes /= classes.sum(axis=1, keepdims=True)
    scores = []
    for part in np.split(classes, 10):
        scores.append(np.exp((part * np.log(part / part.mean(axis=0))).sum(axis=1).mean()))
    found = inception_score(logits)
    assert (found.mean, found.std) == pytest.approx((np.mean(scores), np.std(scores)))
    assert inception_score(torch.zeros(10, 4)).mean == pytest.approx(1)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, precision_recall])
def test_features_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match=r"generated is \(9, 6\) and real \(9, 5\)"):
        metric(drawn(9, 0.0), drawn(9, 0.0, length=5))
    with pytest.raises(ValueError, match="generated are 9 and real 1 pictures"):
        metric(drawn(9, 0.0), drawn(1, 0.0))


def test_fewer_pictures_than_splits_are_refused():
    with pytest.raises(ValueError, match="logits are of 9 pictures, expected 10 or more"):
        inception_score(torch.zeros(9, 4))
