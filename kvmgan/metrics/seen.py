"""What the judging networks see in pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kvmgan.models.attribute_classifier import AttributeClassifier


@dataclass(frozen=True)
class Seen:
    """What is seen in N pictures, on the host: features (N, D), and attribute -> index of its value (N,)."""

    features: Tensor
    attributes: dict[str, Tensor]

    def __getitem__(self, rows: Tensor) -> Seen:
        """What is seen in the pictures ``rows`` (M,) int64, in this order."""
        return Seen(self.features[rows], {name: values[rows] for name, values in self.attributes.items()})


@torch.no_grad()
def see(batches: Iterable[Tensor], image_encoder: nn.Module, classifier: AttributeClassifier | None) -> Seen:
    """Look at pictures (b, 3, s, s) in [-1, 1], batch by batch; no attributes are seen without a classifier."""
    features, attributes = [], []
    for images in batches:
        features.append(image_encoder(images)[1].cpu())
        if classifier is not None:
            attributes.append({name: logits.argmax(dim=1).cpu() for name, logits in classifier(images).items()})
    names = attributes[0] if attributes else ()
    return Seen(torch.cat(features), {name: torch.cat([part[name] for part in attributes]) for name in names})
