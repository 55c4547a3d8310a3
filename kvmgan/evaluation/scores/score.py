"""What every score is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kvmgan.metrics.seen import Seen, Watcher

Row = dict[str, Any]


class Score(Protocol):
    """A metric, or several that are computed on the same.

    watchers: the networks that must have looked at the pictures.
    """

    watchers: Sequence[Watcher]

    def rows(self, seen: Mapping[str, Seen], real: Seen) -> list[Row]:
        """Rows of :func:`kvmgan.metrics.metric_rows.metric_row`.

        Args:
            seen: by subject, what was seen in the N pictures of the evaluation's pairs; ``real`` among them is what
                was seen in each pair's own picture.
            real: what was seen in all test pictures, each once.
        """
