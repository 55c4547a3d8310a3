"""Distances between all generated and all real pictures, precision and recall, Inception Score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from kvmgan.errors import UserError
from kvmgan.evaluation.protocol import of_watcher
from kvmgan.evaluation.scores.score import Row
from kvmgan.metrics.feature_metrics import (
    KERNEL_SUBSETS,
    NEIGHBOURS,
    SCORE_SPLITS,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    subset_size,
)
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.seen import Seen, Watcher

# Name, value, figures beside the value, what its protocol adds.
Figure = tuple[str, float, Row, Row]

_LEAST = {"is": SCORE_SPLITS, "prc": NEIGHBOURS + 1}


def shortage(metric: str, images: int, real: int) -> str | None:
    """Why a metric can't be computed on so many generated and real pictures; None where it can."""
    least = _LEAST.get(metric, 2)
    if min(images, real) >= least:
        return None
    return (
        f"needs {least} pictures or more, generated and real: there are {images} (--evaluation.images) and {real} "
        "(test pictures)"
    )


class Distributions:
    """The metrics of one extractor's features: some of fid, kid, is, fd, kd, prc and fd-dinov2.

    Generated pictures are those of all pairs, real ones all test pictures, each once: a real picture that stood there
    twice would be its own nearest neighbour. ``is`` is given for real pictures as well.
    """

    def __init__(self, watcher: Watcher, metrics: Sequence[str], name: str, images: int, real: int, protocol: Row):
        """Compute ``metrics`` under the protocol ``name``, on so many generated and real pictures.

        Raises:
            UserError: if these are too few.
        """
        self.watchers = [watcher]
        self._metrics = metrics
        self._protocol = protocol | {"name": name, "real_images": real} | of_watcher(watcher)
        for metric in metrics:
            wanting = shortage(metric, images, real)
            if wanting is not None:
                raise UserError(f"--metrics {metric} {wanting}")

    def rows(self, seen: Mapping[str, Seen], real: Seen) -> list[Row]:
        """One row a figure and subject."""
        compute: dict[str, Callable[[str, Seen, Seen], list[Figure]]] = {
            "is": self._inception_score,
            "prc": self._precision_recall,
            "kid": self._kernel_distance,
            "kd": self._kernel_distance,
        }
        rows = []
        for metric in self._metrics:
            for subject, pictures in seen.items():
                if subject != "real":
                    found = compute.get(metric, self._frechet_distance)(metric, pictures, real)
                elif metric == "is":
                    found = self._inception_score(metric, real, real)
                else:
                    continue
                rows += [
                    metric_row(name.replace("-", "_"), subject, value, extra, self._protocol | own)
                    for name, value, extra, own in found
                ]
        return rows

    def _features(self, seen: Seen) -> Tensor:
        return seen[f"{self.watchers[0].name}.features"]

    def _frechet_distance(self, metric: str, generated: Seen, real: Seen) -> list[Figure]:
        pair = self._features(generated), self._features(real)
        fewest, length = min(map(len, pair)), pair[0].shape[1]
        # The covariances are then singular, and the distance is large whatever the pictures are.
        if fewest <= length:
            print(f"note: {metric} of {fewest} pictures, fewer than the {length} features, is biased upwards")
        return [(metric, frechet_distance(*pair), {}, {})]

    def _kernel_distance(self, metric: str, generated: Seen, real: Seen) -> list[Figure]:
        pair = self._features(generated), self._features(real)
        found = kernel_distance(*pair)
        subsets = {"subsets": KERNEL_SUBSETS, "subset_size": subset_size(*map(len, pair))}
        return [(metric, found.mean, {"std": found.std}, subsets)]

    def _precision_recall(self, metric: str, generated: Seen, real: Seen) -> list[Figure]:
        precision, recall = precision_recall(self._features(generated), self._features(real))
        neighbours = {"neighbours": NEIGHBOURS}
        return [("precision", precision, {}, neighbours), ("recall", recall, {}, neighbours)]

    def _inception_score(self, metric: str, pictures: Seen, real: Seen) -> list[Figure]:
        found = inception_score(pictures[f"{self.watchers[0].name}.logits"])
        return [(metric, found.mean, {"std": found.std}, {"splits": SCORE_SPLITS})]
