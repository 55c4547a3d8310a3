"""Metrics of features and logits: Fréchet and kernel distance, precision and recall, Inception Score.

torch-fidelity does the arithmetic; with its own Inception features these are FID, KID and IS as it gives them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kvmgan.errors import UserError

KERNEL_SUBSETS = 100
LARGEST_SUBSET = 1000
NEIGHBOURS = 3
SCORE_SPLITS = 10


@dataclass(frozen=True)
class Estimate:
    """A mean over parts of the pictures and the standard deviation over these parts."""

    mean: float
    std: float


def check_fidelity_is_installed() -> None:
    """Find out whether torch-fidelity can be imported.

    Raises:
        UserError: says how to install it.
    """
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise UserError("these metrics need torch-fidelity: pip install -e '.[eval]'") from None


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al., 2017, equation 6).

    Args:
        generated: (N, D) float32. real: (M, D) float32, N and M 2 or more.

    Raises:
        ValueError: too few features, or of different lengths.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    _check(generated, real, least=2)
    statistics = (fid_features_to_statistics(features) for features in (generated, real))
    return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]


def subset_size(generated: int, real: int) -> int:
    """Pictures of each kind in a subset of :func:`kernel_distance`."""
    return min(LARGEST_SUBSET, generated, real)


def kernel_distance(generated: Tensor, real: Tensor) -> Estimate:
    """Squared maximum mean discrepancy by the kernel (x·y / D + 1)³, unbiased (Bińkowski et al., 2018).

    Over ``KERNEL_SUBSETS`` subsets of :func:`subset_size` pictures of each kind. Arguments and errors as in
    :func:`frechet_distance`.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    _check(generated, real, least=2)
    found = kid_features_to_metric(
        generated,
        real,
        kid_subsets=KERNEL_SUBSETS,
        kid_subset_size=subset_size(len(generated), len(real)),
        verbose=False,
    )
    return Estimate(found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD])


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019), balls to the third nearest neighbour.

    Precision: share of generated features within a ball of a real one; recall: of real ones within a ball of a
    generated one. Arguments as in :func:`frechet_distance`, with 4 features or more of each kind.

    Raises:
        ValueError: too few features, or of different lengths.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    _check(generated, real, least=NEIGHBOURS + 1)
    # In parts: the distances of 30,000 pictures to each other would need 3.6 GB three times.
    found = prc_features_to_metric(generated, real, prc_batch_size=2000, save_cpu_ram=True, verbose=False)
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def inception_score(logits: Tensor) -> Estimate:
    """exp of the mean divergence of a picture's classes from those of all (Salimans et al., 2016).

    Args:
        logits: (N, classes), N at least ``SCORE_SPLITS``.

    Raises:
        ValueError: fewer pictures than splits.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    if len(logits) < SCORE_SPLITS:
        raise ValueError(f"logits are of {len(logits)} pictures, expected {SCORE_SPLITS} or more: one a split")
    found = isc_features_to_metric(logits, SCORE_SPLITS)
    return Estimate(found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD])


def _check(generated: Tensor, real: Tensor, least: int) -> None:
    if generated.ndim != 2 or real.ndim != 2 or generated.shape[1] != real.shape[1]:
        raise ValueError(
            f"generated is {tuple(generated.shape)} and real {tuple(real.shape)}, expected (N, D) and (M, D)"
        )
    if min(len(generated), len(real)) < least:
        raise ValueError(f"generated are {len(generated)} and real {len(real)} pictures, expected {least} or more each")
