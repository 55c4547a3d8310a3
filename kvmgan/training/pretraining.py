"""Pretrained encoders from the cache folder; what isn't there is trained and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kvmgan.code_version import source_digest
from kvmgan.config import Options
from kvmgan.data.files import write_text
from kvmgan.files import atomic_folder
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.training.attribute_training import train_classifier
from kvmgan.training.damsm import pretrain_damsm
from kvmgan.training.datasets import Splits
from kvmgan.training.encoders import Encoders, load_classifier, load_damsm, save_classifier, save_damsm
from kvmgan.training.progress import Phases


def ensure_encoders(
    splits: Splits, options: Options, cache_dir: Path, device: torch.device, phases: Phases
) -> Encoders:
    """The encoders and, for procedural birds, the classifier: from ``cache_dir``, else trained and put there.

    A cache folder is named by a hash of the data, of all settings that matter and of the code that trains, so that none
    of them can change without new weights.
    """
    text, image = _ensure_damsm(splits, options, cache_dir, device)
    phases.end("damsm")
    classifier = None
    if splits.truth is not None:
        classifier = _ensure_classifier(splits, options, cache_dir, device)
        phases.end("attribute classifier")
    return Encoders(splits.vocabulary, text, image, classifier).to(device)


def _ensure_damsm(
    splits: Splits, options: Options, cache_dir: Path, device: torch.device
) -> tuple[TextEncoder, nn.Module]:
    folder = cache_dir / f"damsm-{_key(splits, options, options.damsm, 'training/damsm.py')}"
    if not folder.exists():
        text, image = pretrain_damsm(splits.train, len(splits.vocabulary), options, device)
        with atomic_folder(folder) as temporary:
            save_damsm(temporary, text, image)
            _describe(temporary, options.damsm)
    print(f"encoders: {folder}")
    return load_damsm(folder, options, len(splits.vocabulary))


def _ensure_classifier(
    splits: Splits, options: Options, cache_dir: Path, device: torch.device
) -> AttributeClassifier | None:
    folder = cache_dir / f"classifier-{_key(splits, options, options.classifier, 'training/attribute_training.py')}"
    if not folder.exists():
        classifier = train_classifier(splits.train, splits.truth, options, device)
        with atomic_folder(folder) as temporary:
            save_classifier(temporary, classifier)
            _describe(temporary, options.classifier)
    print(f"attribute classifier: {folder}")
    return load_classifier(folder, options)


def _key(splits: Splits, options: Options, group: Any, source: str) -> str:
    """Hash of all that decides the weights: data, picture size, settings of the group, seed and code."""
    parts = {
        "data": splits.digest(),
        "size": options.sizes[-1],
        "max_words": options.data.max_words,
        "settings": dataclasses.asdict(group),
        "seed": options.training.seed,
        "code": source_digest("data", "models", "losses", source),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _describe(folder: Path, group: Any) -> None:
    write_text(folder / "settings.json", json.dumps(dataclasses.asdict(group), indent=1, default=str))
