"""Attribute accuracy on a constructed case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.data.records import Record
from kvmgan.metrics.attribute_accuracy import attribute_accuracy, attribute_targets, named_attributes

TRUTH = AttributeTruth(
    values={"wing": ("red", "blue"), "beak": ("short", "long")},
    images={"a": {"wing": 0, "beak": 1}, "b": {"wing": 1, "beak": 0}},
    captions={"a": [("wing",), ("wing", "beak")], "b": [("beak",), ()]},
)
RECORDS = [Record(key, Path(f"{key}.png"), number, ("one", "two")) for number, key in enumerate("ab")]


def test_truth_as_tensors():
    wanted, named = attribute_targets(RECORDS, TRUTH), named_attributes(RECORDS, [1, 0], TRUTH)
    assert {name: values.tolist() for name, values in wanted.items()} == {"wing": [0, 1], "beak": [1, 0]}
    assert {name: values.tolist() for name, values in named.items()} == {"wing": [True, False], "beak": [True, True]}


def test_only_named_attributes_count():
    """Named: a's wing (right), a's beak (wrong), b's beak (right); b's wing is wrong but not named."""
    wanted, named = attribute_targets(RECORDS, TRUTH), named_attributes(RECORDS, [1, 0], TRUTH)
    score = attribute_accuracy({"wing": torch.tensor([0, 0]), "beak": torch.tensor([0, 0])}, wanted, named)
    assert score.accuracy == pytest.approx(200 / 3)
    assert score.by_attribute == {"wing": 100.0, "beak": 50.0}
    assert score.named == 3


def test_attributes_that_the_classifier_lacks_do_not_count():
    wanted, named = attribute_targets(RECORDS, TRUTH), named_attributes(RECORDS, [1, 0], TRUTH)
    score = attribute_accuracy({"beak": torch.tensor([0, 0])}, wanted, named)
    assert (score.accuracy, score.named) == (50.0, 2)


def test_nothing_named():
    with pytest.raises(ValueError, match="nothing to score"):
        attribute_accuracy({"wing": torch.zeros(1)}, {"wing": torch.zeros(1)}, {"wing": torch.tensor([False])})
