"""Which metrics are computed, and the networks beside a run's own encoders that they need."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from kvmgan.errors import UserError
from kvmgan.metrics.extractors import efficientnet_lite0, huggingface, inception
from kvmgan.metrics.extractors.huggingface import TextImageWatcher
from kvmgan.metrics.feature_metrics import check_fidelity_is_installed
from kvmgan.metrics.seen import Watcher

OF_INCEPTION = ("fid", "kid", "is")
OF_OTHERS = ("fd", "kd")
OF_FEATURES = ("prc", "diversity")
# What compares all generated pictures with all real ones by the protocol's features.
DISTRIBUTIONS = (*OF_INCEPTION, *OF_OTHERS, "prc")
METRICS = (*OF_INCEPTION, *OF_OTHERS, *OF_FEATURES, "fd-dinov2", "clip-score", "r-precision", "attributes")
INCEPTION_PROTOCOLS = ("tf", "clean", "legacy-dmgan")
PROTOCOLS = (*INCEPTION_PROTOCOLS, efficientnet_lite0.NAME, "damsm")
# What a training computes on its way: by the run's own encoders alone.
OWN_METRICS = ("r-precision", "attributes")


@dataclass(frozen=True)
class Panel:
    """The judges of an evaluation.

    metrics: of ``METRICS``. protocol: of ``PROTOCOLS``; whose features ``features`` are, None for damsm's, which are
    the run's own. captions, draws: of the diversity, so many captions are drawn so many times each.
    lenient: the metrics weren't asked for by name: what the data is too small for is left out, with a line about it,
    instead of refused.
    """

    metrics: tuple[str, ...] = OWN_METRICS
    protocol: str = "damsm"
    features: Watcher | None = None
    dinov2: Watcher | None = None
    clip: TextImageWatcher | None = None
    captions: int = 50
    draws: int = 8
    lenient: bool = False

    @property
    def truncates(self) -> bool:
        """Whether pictures are cut to 8 bits as the released code saved them, instead of rounded."""
        return self.protocol == "legacy-dmgan"


def parse_metrics(text: str) -> tuple[str, ...] | None:
    """The metrics that are named, separated by commas, in this order; None for ``auto``.

    Raises:
        UserError: for one that isn't known.
    """
    if text == "auto":
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(f"--metrics is {text!r}: choose auto, or several of {', '.join(METRICS)}, separated by commas")
    return names


def settle_protocol(metrics: tuple[str, ...] | None, protocol: str, weights: Path) -> tuple[tuple[str, ...], str]:
    """The metrics and the protocol, with what ``auto`` stands for; nothing is loaded or downloaded.

    ``auto`` is Inception where it is asked for by a metric's name or its weights are at hand, else EfficientNet-Lite0,
    else the run's own image encoder.

    Raises:
        UserError: if a metric isn't one of the protocol.
    """
    if protocol == "auto":
        asked = metrics is not None and any(name in OF_INCEPTION for name in metrics)
        named_otherwise = metrics is not None and any(name in OF_OTHERS for name in metrics)
        if asked or (inception.is_at_hand(weights) and not named_otherwise):
            protocol = "tf"
        else:
            protocol = efficientnet_lite0.NAME if efficientnet_lite0.is_installed() else "damsm"
    of_inception = protocol in INCEPTION_PROTOCOLS
    if metrics is None:
        return _all_without_download(protocol), protocol
    for name in metrics:
        if name in OF_INCEPTION and not of_inception:
            raise UserError(
                f"--metrics {name} is Inception's, --protocol is {protocol}: take {', '.join(INCEPTION_PROTOCOLS)}, "
                f"or the metrics {', '.join(OF_OTHERS)}"
            )
        if name in OF_OTHERS and of_inception:
            named = {"fd": "fid", "kd": "kid"}[name]
            raise UserError(f"--metrics {name} is called {named} where --protocol is {protocol}: ask for {named}")
        if name == "is" and protocol == "legacy-dmgan":
            raise UserError("--metrics is has no --protocol legacy-dmgan: its networks were never released, take tf")
    return metrics, protocol


def build_panel(
    metrics: tuple[str, ...],
    protocol: str,
    weights: Path,
    device: torch.device,
    *,
    captions: int,
    draws: int,
    lenient: bool = False,
) -> Panel:
    """Load the networks that the metrics need.

    Args:
        metrics, protocol: of :func:`settle_protocol`.
        weights: folder in which weights are looked for, and into which they are downloaded.
        captions, draws, lenient: of :class:`Panel`.

    Raises:
        UserError: if a package or a file of weights is missing.
    """
    features = None
    if any(name in (*DISTRIBUTIONS, "fd-dinov2") for name in metrics):
        check_fidelity_is_installed()
    if any(name in (*DISTRIBUTIONS, "diversity") for name in metrics):
        if protocol in INCEPTION_PROTOCOLS:
            features = inception.inception(protocol, weights, device)
        elif protocol == efficientnet_lite0.NAME:
            features = efficientnet_lite0.efficientnet_lite0(device)
    dinov2 = huggingface.dinov2(weights, device) if "fd-dinov2" in metrics else None
    clip = huggingface.clip(weights, device) if "clip-score" in metrics else None
    return Panel(metrics, protocol, features, dinov2, clip, captions, draws, lenient)


def _all_without_download(protocol: str) -> tuple[str, ...]:
    """What ``--metrics auto`` is: all that can be computed with what is installed and at hand."""
    if importlib.util.find_spec("torch_fidelity") is None:
        print("note: distances, precision and recall are left out: pip install -e '.[eval]' has what they need")
        return ("diversity", *OWN_METRICS)
    own = OF_INCEPTION if protocol in INCEPTION_PROTOCOLS else OF_OTHERS
    return (*(name for name in own if (name, protocol) != ("is", "legacy-dmgan")), *OF_FEATURES, *OWN_METRICS)
