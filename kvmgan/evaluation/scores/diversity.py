"""Diversity of the pictures that a generator draws of one caption."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvmgan.evaluation.protocol import of_watcher
from kvmgan.evaluation.scores.score import Row
from kvmgan.metrics.diversity import distance_within_classes, mean_pairwise_distance
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.seen import Seen, Watcher


class Diversity:
    """``diversity``: mean cosine distance of a caption's pictures, mean and standard deviation over captions.

    Beside it, for real pictures, the mean distance of pictures of one class: a caption says less or more than a
    class, so that it is an order of magnitude and no bound.
    """

    def __init__(self, watcher: Watcher, captions: int, draws: int, class_ids: np.ndarray, protocol: Row):
        """Judge ``captions`` captions, each drawn ``draws`` times in a row; ``class_ids``: of all test pictures."""
        self.watchers = [watcher]
        self.captions, self.draws, self._class_ids = captions, draws, class_ids
        self._protocol = protocol | of_watcher(watcher)

    def rows(self, seen: Mapping[str, Seen], real: Seen) -> list[Row]:
        """One row a subject; ``seen``: by subject, what was seen in captions * draws pictures."""
        name = f"{self.watchers[0].name}.features"
        drawn = {"images": self.captions * self.draws, "captions": self.captions, "draws": self.draws}
        rows = []
        for subject, pictures in seen.items():
            distances = mean_pairwise_distance(pictures[name].unflatten(0, (self.captions, self.draws)))
            extra = {"std": distances.std(correction=0).item()}
            rows.append(metric_row("diversity", subject, distances.mean().item(), extra, self._protocol | drawn))
        within = distance_within_classes(real[name], self._class_ids)
        if within is not None:
            pairs = {"images": len(self._class_ids), "pairs": "of one class"}
            rows.append(metric_row("diversity", "real", within, {}, self._protocol | pairs))
        return rows
