"""Attribute accuracy: of the attributes that a caption names, how many does the picture show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.data.records import Record


@dataclass(frozen=True)
class AttributeScore:
    """``accuracy`` over all named attributes [percent], the same by attribute, and how many were named."""

    accuracy: float
    by_attribute: dict[str, float]
    named: int


def attribute_targets(records: Sequence[Record], truth: AttributeTruth) -> dict[str, Tensor]:
    """Attribute name -> index of the value that each record's drawing shows, (N,) int64."""
    return {name: torch.tensor([truth.images[record.key][name] for record in records]) for name in truth.values}


def named_attributes(
    records: Sequence[Record], caption_indices: Sequence[int], truth: AttributeTruth
) -> dict[str, Tensor]:
    """Attribute name -> whether the chosen caption of each record names it, (N,) bool."""
    named = [set(truth.captions[r.key][c]) for r, c in zip(records, caption_indices, strict=True)]
    return {name: torch.tensor([name in names for names in named]) for name in truth.values}


def attribute_accuracy(
    predicted: Mapping[str, Tensor], wanted: Mapping[str, Tensor], named: Mapping[str, Tensor]
) -> AttributeScore:
    """Share of the named attributes whose predicted value is the wanted one.

    Args:
        predicted: attribute -> value index seen in each picture, (N,); attributes that it lacks aren't counted.
        wanted: attribute -> value index that the caption's bird has, (N,).
        named: attribute -> whether the caption names it, (N,) bool.

    Raises:
        ValueError: if no caption names any attribute.
    """
    hits = {name: (predicted[name] == wanted[name])[named[name]] for name in predicted}
    total = sum(len(hit) for hit in hits.values())
    if total == 0:
        raise ValueError("named holds no attribute that predicted knows: there is nothing to score")
    by_attribute = {name: 100 * hit.double().mean().item() for name, hit in hits.items() if len(hit)}
    return AttributeScore(100 * sum(int(hit.sum()) for hit in hits.values()) / total, by_attribute, total)
