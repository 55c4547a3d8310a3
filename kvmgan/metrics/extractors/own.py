"""A run's own judges: its DAMSM image encoder and its attribute classifier."""

from __future__ import annotations

from torch import Tensor, nn

from kvmgan.data.pixels import to_scales
from kvmgan.metrics.seen import Watcher
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.models.weights_digest import weights_digest


def damsm(image_encoder: nn.Module) -> Watcher:
    """Sees ``features`` (b, D): the global feature."""

    def look(pictures: Tensor) -> dict[str, Tensor]:
        return {"features": image_encoder(_signed(pictures))[1]}

    return Watcher("damsm", weights_digest(image_encoder), look)


def attributes(classifier: AttributeClassifier) -> Watcher:
    """Sees each attribute's value by the attribute's name, (b,) int64."""

    def look(pictures: Tensor) -> dict[str, Tensor]:
        return {name: logits.argmax(dim=1) for name, logits in classifier(_signed(pictures)).items()}

    return Watcher("attributes", weights_digest(classifier), look)


def _signed(pictures: Tensor) -> Tensor:
    return to_scales(pictures, pictures.shape[-1:])[0]
