"""Inception-v3 under the three protocols in use: torch-fidelity's, clean-fid's and that of DM-GAN's evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.errors import UserError
from kvmgan.files import file_digest
from kvmgan.metrics.extractors.cpu_parts import Look, in_parts, placed
from kvmgan.metrics.extractors.resizing import resized
from kvmgan.metrics.extractors.weights import at_hand, weights_file
from kvmgan.metrics.feature_metrics import check_fidelity_is_installed
from kvmgan.metrics.seen import Watcher

SIDE = 299
TENSORFLOW = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
TORCHVISION = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"


def is_at_hand(folder: Path) -> bool:
    """Whether the weights of the protocols ``tf`` and ``clean`` need no download."""
    return at_hand(TENSORFLOW, folder) is not None


def inception(protocol: str, folder: Path, device: torch.device) -> Watcher:
    """Inception as a protocol has it; it sees ``features`` (b, 2048) and, but for legacy-dmgan, ``logits`` (b, 1008).

    Args:
        protocol: ``tf``: the TensorFlow weights of 2015, resized as TensorFlow 1 did (torch-fidelity). ``clean``: the
            same weights, resized antialiased and bicubic (clean-fid). ``legacy-dmgan``: torchvision's weights, and
            pictures in [0, 1] put through an affine map that is meant for normalised ones.
        folder: where weights are looked for and downloaded to.

    Raises:
        UserError: if the weights can't be had, or torch-fidelity or torchvision isn't installed.
    """
    makers: dict[str, tuple[str, Callable[[Path, torch.device], Look]]] = {
        "tf": (TENSORFLOW, _torch_fidelity),
        "clean": (TENSORFLOW, _clean),
        "legacy-dmgan": (TORCHVISION, _legacy_dmgan),
    }
    url, make = makers[protocol]
    check_fidelity_is_installed()
    path = weights_file(url, folder)
    try:
        look = make(path, device)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path} doesn't fit Inception ({type(error).__name__}): put {url} there") from None
    return Watcher(f"inception-{protocol}", file_digest(path)[:16], in_parts(look))


def _network(path: Path, device: torch.device) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The path was read by the restricted unpickler before: torch-fidelity's own reading would run what it holds.
    wanted = ["2048", "logits_unbiased"]
    network = FeatureExtractorInceptionV3("inception-v3-compat", wanted, feature_extractor_weights_path=str(path))
    return placed(network, device)


def _torch_fidelity(path: Path, device: torch.device) -> Look:
    network = _network(path, device)
    return lambda pictures: dict(zip(("features", "logits"), network(pictures), strict=True))


def _clean(path: Path, device: torch.device) -> Look:
    network = _network(path, device)
    # The network itself takes whole levels alone; its layers stand in the order of its forward pass.
    trunk = nn.Sequential(*(layer for name, layer in network.named_children() if name != "fc"), nn.Flatten())

    def look(pictures: Tensor) -> dict[str, Tensor]:
        features = trunk((resized(pictures, SIDE) - 128) / 128)
        return {"features": features, "logits": features @ network.fc.weight.T}

    return look


def _legacy_dmgan(path: Path, device: torch.device) -> Look:
    from torchvision.models import Inception3

    network = Inception3(transform_input=True, init_weights=False)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.fc = nn.Identity()
    placed(network, device)

    def look(pictures: Tensor) -> dict[str, Tensor]:
        enlarged = F.interpolate(pictures.float() / 255, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        return {"features": network(enlarged)}

    return look
