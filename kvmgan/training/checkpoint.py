"""Checkpoints: folders of safetensors and JSON that hold everything a resume needs and sample from nothing else.

``step-000123/``: ``config.yaml``, ``encoders/``, ``generator``, ``average``, ``discriminators`` and ``optimizers``
(``.safetensors``), and ``checkpoint.json`` with the step, the optimisers' settings and the SHA-256 of every other file.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvmgan.code_version import code_version
from kvmgan.config import Options, load_options, to_yaml
from kvmgan.data.files import read_json, write_text
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import TEMPORARY, atomic_folder, file_digest, load_tensors, save_tensors
from kvmgan.models.generator import Generator
from kvmgan.training.builders import build_generator
from kvmgan.training.encoders import Encoders, load_encoders, load_weights
from kvmgan.training.state import TrainingState, initial_state

FORMAT = 1
_HEADER = "checkpoint.json"
_NAME = re.compile(r"step-(\d+)$")


@dataclass
class Checkpoint:
    """A checkpoint whose files have been found whole."""

    folder: Path
    step: int
    options: Options
    optimizer_groups: dict[str, list[dict[str, Any]]]

    def vocabulary(self) -> Vocabulary:
        """The words that the text encoder knows."""
        return Vocabulary.load(self.folder / "encoders" / "vocabulary.json")

    def encoders(self) -> Encoders:
        """The frozen encoders, on the CPU."""
        return load_encoders(self.folder / "encoders", self.options)

    def generator(self) -> Generator:
        """The averaged generator in evaluation mode, on the CPU."""
        generator = build_generator(self.options)
        load_weights(generator, self.folder / "average.safetensors")
        return generator.eval().requires_grad_(False)

    def restore(self, device: torch.device) -> TrainingState:
        """The state after :attr:`step` steps, on the device."""
        state = initial_state(self.options, device)
        load_weights(state.generator, self.folder / "generator.safetensors")
        load_weights(state.average.model, self.folder / "average.safetensors")
        load_weights(state.discriminators, self.folder / "discriminators.safetensors")
        tensors = load_tensors(self.folder / "optimizers.safetensors")
        for name, optimizer in _optimizers(state).items():
            _restore_optimizer(optimizer, name, self.optimizer_groups[name], tensors)
        state.step = self.step
        return state


def save_checkpoint(folder: Path, state: TrainingState, encoders: Encoders, options: Options) -> Path:
    """Write ``step-<step>`` below ``folder`` under a temporary name, rename it, and drop all but the newest.

    ``training.keep_checkpoints`` of them stay. Returns the new checkpoint's path.
    """
    path = folder / f"step-{state.step:06d}"
    with atomic_folder(path) as temporary:
        write_text(temporary / "config.yaml", to_yaml(options))
        encoders.save(temporary / "encoders")
        save_tensors(temporary / "generator.safetensors", state.generator.state_dict())
        save_tensors(temporary / "average.safetensors", state.average.model.state_dict())
        save_tensors(temporary / "discriminators.safetensors", state.discriminators.state_dict())
        groups, tensors = _optimizer_parts(state)
        save_tensors(temporary / "optimizers.safetensors", tensors)
        files = {p.relative_to(temporary).as_posix(): file_digest(p) for p in temporary.rglob("*") if p.is_file()}
        header = {
            "format": FORMAT,
            "step": state.step,
            "code_version": code_version(),
            "optimizers": groups,
            "sha256": dict(sorted(files.items())),
        }
        write_text(temporary / _HEADER, json.dumps(header, indent=1))
    _prune(folder, options.training.keep_checkpoints)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below ``folder`` by ascending step."""
    found = [path for path in folder.glob("step-*") if _NAME.search(path.name)]
    return sorted(found, key=lambda path: int(_NAME.search(path.name)[1]))


def load_checkpoint(path: Path) -> Checkpoint:
    """Find and verify a checkpoint: ``path`` is one, or a run folder, whose newest one is taken.

    Raises:
        UserError: if there is none, or a file of it is missing or damaged.
    """
    folder = _find(path)
    header = read_json(folder / _HEADER, "the list of a checkpoint's files")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise UserError(f"{folder / _HEADER} has format {found}: this version reads format {FORMAT}")
    for name, digest in header["sha256"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            others = [p.name for p in list_checkpoints(folder.parent) if p != folder]
            advice = f"name another checkpoint ({', '.join(others)})" if others else "restore it from a copy"
            raise UserError(f"checkpoint {folder} is corrupt: {name} is missing or damaged; {advice}")
    return Checkpoint(folder, header["step"], load_options(folder / "config.yaml"), header["optimizers"])


def _find(path: Path) -> Path:
    if (path / _HEADER).is_file():
        return path
    if not path.exists():
        raise UserError(f"{path} doesn't exist: name a run folder or a checkpoint that kvmgan.train wrote")
    found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    if not found:
        raise UserError(f"{path} holds no checkpoint: name a run folder or a checkpoint that kvmgan.train wrote")
    return found[-1]


def _prune(folder: Path, keep: int) -> None:
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    # What a killed process left half-written.
    for rest in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(rest, ignore_errors=True)


def _optimizers(state: TrainingState) -> dict[str, torch.optim.Optimizer]:
    return {"generator": state.generator_optimizer, "discriminator": state.discriminator_optimizer}


def _optimizer_parts(state: TrainingState) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Tensor]]:
    """Settings of the parameter groups for JSON, and the moments as tensors named ``optimizer.index.moment``."""
    groups, tensors = {}, {}
    for name, optimizer in _optimizers(state).items():
        whole = optimizer.state_dict()
        groups[name] = whole["param_groups"]
        for index, moments in whole["state"].items():
            tensors |= {f"{name}.{index}.{moment}": tensor for moment, tensor in moments.items()}
    return groups, tensors


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, name: str, groups: list[dict[str, Any]], tensors: dict[str, Tensor]
) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, index, moment = key.split(".")
        if owner == name:
            moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
