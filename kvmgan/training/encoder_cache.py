"""Pretrained encoders from the cache folder; what isn't there is trained and kept."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kvmgan.config import Options
from kvmgan.config_file import to_yaml
from kvmgan.data.pixels import DECODING_VERSION
from kvmgan.errors import UserError
from kvmgan.files import atomic_folder, exclusive, file_digest, write_text
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.parallel import processes
from kvmgan.pretraining.classifier_training import CLASSIFIER_VERSION, train_classifier
from kvmgan.pretraining.damsm_pretraining import DAMSM_VERSION, DamsmPretraining, deciding_settings, finished
from kvmgan.pretraining.encoders import Encoders, load_classifier, load_encoders, save_classifier
from kvmgan.runs.interruption import SignalGuard
from kvmgan.runs.progress import Phases
from kvmgan.runs.run_folder import RunFolder
from kvmgan.training.datasets import Splits


def ensure_encoders(
    splits: Splits,
    options: Options,
    cache_dir: Path,
    device: torch.device,
    phases: Phases,
    guard: SignalGuard,
    given: Encoders | None = None,
) -> Encoders:
    """The encoders and, for procedural birds, the classifier: from ``cache_dir``, else trained and put there.

    A cache folder is named by a hash of what decides the weights: data, settings, seed, picture size and the version
    of the training code. ``given``: encoders that exist, taken instead of the cache's.

    Raises:
        Interrupted: on a signal, after a checkpoint of the pretraining was written.
        UserError: if pretraining diverges.
    """
    encoders = given or _ensure_damsm(splits, options, cache_dir, device, guard)
    phases.end("damsm")
    if splits.truth is not None and encoders.classifier is None:
        with processes.leader_first():
            encoders.classifier = _ensure_classifier(splits, options, cache_dir, device)
        phases.end("attribute classifier")
    return encoders.to(device)


def _ensure_damsm(
    splits: Splits, options: Options, cache_dir: Path, device: torch.device, guard: SignalGuard
) -> Encoders:
    damsm = options.damsm
    settings = deciding_settings(damsm) | {"inception": _inception_digest(damsm.inception_weights)}
    run = RunFolder(cache_dir / f"damsm-{_key(splits, options, settings, DAMSM_VERSION)}")
    # One process holds the folder for all of them; another run that needs the same encoders waits, and finds them.
    with exclusive(run.path, wait=True) if processes.leads() else nullcontext():
        if not processes.of_leader(finished(run.path)):
            if processes.leads():
                write_text(run.config, to_yaml(options))
            DamsmPretraining(
                run,
                splits.train,
                splits.test,
                damsm,
                size=options.sizes[-1],
                seed=options.training.seed,
                workers=options.data.workers,
                device=device,
            ).run(guard)
    print(f"encoders: {run.path}")
    return load_encoders(run.path / "best")


def _ensure_classifier(
    splits: Splits, options: Options, cache_dir: Path, device: torch.device
) -> AttributeClassifier | None:
    settings = options.classifier
    folder = cache_dir / f"classifier-{_key(splits, options, asdict(settings), CLASSIFIER_VERSION)}"
    if not folder.exists():
        classifier = train_classifier(
            splits.train,
            splits.truth,
            settings,
            size=options.sizes[-1],
            seed=options.training.seed,
            workers=options.data.workers,
            device=device,
        )
        with atomic_folder(folder) as temporary:
            save_classifier(temporary, classifier)
            write_text(temporary / "settings.json", json.dumps(asdict(settings), indent=1))
    print(f"attribute classifier: {folder}")
    return load_classifier(folder)


def _key(splits: Splits, options: Options, settings: dict[str, Any], version: int) -> str:
    """Hash of all that decides the weights: data, how it is decoded, size, seed, settings, the version of the code."""
    seen = {"data": splits.digest, "decoding": DECODING_VERSION, "size": options.sizes[-1]}
    parts = {**seen, "seed": options.training.seed, "settings": settings, "version": version}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _inception_digest(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return file_digest(path)
    except OSError as error:
        raise UserError(f"--damsm.inception-weights {path} can't be read: {error.strerror}") from None
