"""A pipeline as a folder: all that drawing needs, and nothing that only training does.

``pipeline.json`` (format, settings, version of the code, SHA-256 of the other files), ``weights.safetensors``
(``generator.*`` and ``text_encoder.*``, float32 or float16) and ``vocabulary.json``. It appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kvmgan.bounds import check_bounds
from kvmgan.code_version import code_version
from kvmgan.config_file import plain_settings, restore_settings
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import atomic_folder, file_digest, read_json, write_text
from kvmgan.pipeline.settings import PipelineSettings
from kvmgan.storage.tensor_file import load_tensors, save_tensors

FORMAT = 1
DESCRIPTION = "pipeline.json"
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.json"
STORED_DTYPES = (torch.float32, torch.float16)


def write_pipeline(
    folder: Path,
    settings: PipelineSettings,
    vocabulary: Vocabulary,
    networks: Mapping[str, nn.Module],
    dtype: torch.dtype,
) -> None:
    """Write a pipeline under a temporary name and rename it; one that stands there is replaced.

    Args:
        networks: by the prefix of their weights' names.
        dtype: one of :data:`STORED_DTYPES`.

    Raises:
        UserError: ``folder`` holds other files, which would be lost, or can't be written; a weight is too large for
            ``dtype``. Nothing is written then.
    """
    _check_free(folder)
    tensors = {
        f"{prefix}.{name}": _stored(tensor, dtype, f"{prefix}.{name}")
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    # Which backend computes the layer is a matter of the machine that reads it.
    model = replace(settings.model, memory=replace(settings.model.memory, backend=None))
    try:
        with atomic_folder(folder) as temporary:
            save_tensors(temporary / WEIGHTS, tensors)
            vocabulary.save(temporary / VOCABULARY)
            description = {
                "format": FORMAT,
                "code_version": code_version(),
                "settings": plain_settings(replace(settings, model=model)),
                "sha256": {name: file_digest(temporary / name) for name in (WEIGHTS, VOCABULARY)},
            }
            write_text(temporary / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror or error}): choose another folder") from None


def is_pipeline(folder: Path) -> bool:
    """Whether a folder says that it is a pipeline."""
    return (folder / DESCRIPTION).is_file()


def read_description(folder: Path) -> tuple[PipelineSettings, Vocabulary]:
    """The settings and the words of a pipeline whose files have been found whole.

    Raises:
        UserError: names the file that is missing, damaged, of another version, or doesn't describe a pipeline.
    """
    path = folder / DESCRIPTION
    content = read_json(path, "the description of a pipeline")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise UserError(f"{path} has format {found}: this version reads format {FORMAT}")
    for name in (WEIGHTS, VOCABULARY):
        _check_whole(folder / name, content.get("sha256"))
    settings = restore_settings(PipelineSettings(), content.get("settings"), path)
    try:
        check_bounds(settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return settings, Vocabulary.load(folder / VOCABULARY)


def read_weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of each network by their names, by the network's, in float32 where they are numbers with a point.

    Raises:
        UserError: if the file is missing or damaged.
    """
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(folder / WEIGHTS).items():
        network, _, own = name.partition(".")
        networks.setdefault(network, {})[own] = tensor.float() if tensor.is_floating_point() else tensor
    return networks


def _stored(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(dtype)
    if not stored.isfinite().all():
        largest = tensor.abs().max().item()
        raise UserError(f"{name} has values up to {largest:.3g}, too large for {dtype}: store it as torch.float32")
    return stored


def _check_free(folder: Path) -> None:
    """Find out whether replacing ``folder`` would lose anything but an earlier pipeline."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder")
    others = sorted({path.name for path in folder.iterdir()} - {DESCRIPTION, WEIGHTS, VOCABULARY})
    if others:
        raise UserError(f"{folder} holds {others[0]}, which is no file of a pipeline: name a new folder")


def _check_whole(path: Path, digests: Any) -> None:
    expected = digests.get(path.name) if isinstance(digests, dict) else None
    if not path.is_file():
        raise UserError(f"{path} is missing: restore it from a copy of the pipeline")
    if file_digest(path) != expected:
        raise UserError(f"{path} is damaged, or was written for another {DESCRIPTION}: restore both from one copy")
