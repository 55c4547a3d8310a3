"""R-precision of a run's own encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from kvmgan.evaluation.protocol import of_watcher
from kvmgan.evaluation.scores.score import Row
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.r_precision import r_precision
from kvmgan.metrics.seen import Seen, Watcher


class Retrieval:
    """``r_precision`` [percent] of every subject."""

    def __init__(self, watcher: Watcher, sentences: Tensor, mismatched: np.ndarray, folds: int, protocol: Row):
        """Judge by ``watcher``'s features and ``sentences`` (N, D); ``mismatched`` (N, K), K at least 1."""
        self.watchers = [watcher]
        self._sentences, self._mismatched, self._folds = sentences, mismatched, folds
        own: dict[str, Any] = {"name": "damsm", "candidates": 1 + mismatched.shape[1], "folds": folds}
        self._protocol = protocol | own | of_watcher(watcher)

    def rows(self, seen: Mapping[str, Seen], real: Seen) -> list[Row]:
        """One row a subject, with the folds' standard deviation."""
        rows = []
        for subject, pictures in seen.items():
            features = pictures[f"{self.watchers[0].name}.features"]
            mean, deviation = r_precision(features, self._sentences, self._mismatched, self._folds)
            rows.append(metric_row("r_precision", subject, mean, {"std": round(deviation, 3)}, self._protocol))
        return rows
