"""Attribute accuracy of procedural birds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.data.records import Record
from kvmgan.evaluation.protocol import of_watcher
from kvmgan.evaluation.scores.score import Row
from kvmgan.metrics.attribute_accuracy import attribute_accuracy, attribute_targets, named_attributes
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.seen import Seen, Watcher


class Attributes:
    """``attribute_accuracy`` [percent] of every subject."""

    def __init__(
        self,
        watcher: Watcher,
        records: Sequence[Record],
        captions: Sequence[int],
        truth: AttributeTruth,
        protocol: Row,
    ):
        """Judge the pictures of each record's caption by the attributes that it names."""
        self.watchers = [watcher]
        self._wanted = attribute_targets(records, truth)
        self._named = named_attributes(records, captions, truth)
        self._protocol = protocol | of_watcher(watcher)

    def rows(self, seen: Mapping[str, Seen], real: Seen) -> list[Row]:
        """One row a subject, with the accuracy of each attribute."""
        prefix = f"{self.watchers[0].name}."
        rows = []
        for subject, pictures in seen.items():
            found = {name.removeprefix(prefix): values for name, values in pictures.items() if name.startswith(prefix)}
            score = attribute_accuracy(found, self._wanted, self._named)
            by_attribute = {name: round(value, 2) for name, value in score.by_attribute.items()}
            extra = {"named": score.named, "by_attribute": by_attribute}
            rows.append(metric_row("attribute_accuracy", subject, score.accuracy, extra, self._protocol))
        return rows
