"""What every figure says about how it was computed."""

from __future__ import annotations

from typing import Any

from kvmgan.code_version import code_version
from kvmgan.config import EvaluationOptions
from kvmgan.metrics.seen import Watcher


def common_protocol(judging: EvaluationOptions, *, truncates: bool) -> dict[str, Any]:
    """What all metrics have in common; ``condition``: drawn around its mean, as in training.

    ``tries`` is there where noises were chosen: figures of before had one each.
    """
    chosen = {"tries": judging.tries} if judging.tries > 1 else {}
    return chosen | {
        "split": "test",
        "images": judging.images,
        "pixels": "8 bits, truncated" if truncates else "8 bits, rounded",
        "max_words": judging.max_words,
        "condition": "drawn",
        "seed": judging.seed,
        "code_version": code_version(),
    }


def of_watcher(watcher: Watcher) -> dict[str, Any]:
    """Name and weights of the network that looked."""
    return {"extractor": watcher.name, "extractor_weights": watcher.weights}
