"""Checkpoints: folders of safetensors and JSON that hold everything a resume needs and sample from nothing else.

``step-000123/``: ``config.yaml``, ``encoders/``, ``generator``, ``average``, ``discriminators`` and ``optimizers``
(``.safetensors``), and ``checkpoint.json`` with the step, the optimisers' settings, the loss scale, the skipped steps
and the SHA-256 of every other file.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvmgan.config import Options
from kvmgan.config_file import load_options, to_yaml
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.files import write_text
from kvmgan.models.generator import Generator
from kvmgan.pretraining.encoders import Encoders, load_encoders, load_weights
from kvmgan.runs.checkpoint_folder import find_checkpoint, newest_whole, read_header, write_checkpoint
from kvmgan.runs.optimizer_files import optimizer_parts, restore_optimizers
from kvmgan.storage.tensor_file import load_tensors, on_host, write_tensors
from kvmgan.training.builders import build_generator
from kvmgan.training.device import with_runnable_backend
from kvmgan.training.precision import Precision
from kvmgan.training.state import TrainingState, initial_state


@dataclass
class Checkpoint:
    """A checkpoint whose files have been found whole."""

    folder: Path
    options: Options
    header: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps before it was written."""
        return self.header["step"]

    def vocabulary(self) -> Vocabulary:
        """The words that the text encoder knows."""
        return Vocabulary.load(self.folder / "encoders" / "vocabulary.json")

    def encoders(self) -> Encoders:
        """The frozen encoders, on the CPU."""
        return load_encoders(self.folder / "encoders")

    def runnable_on(self, device: torch.device) -> Checkpoint:
        """The checkpoint with a memory backend for the device: its own, or, with a note, the fastest."""
        model = with_runnable_backend(self.options.model, device)
        return replace(self, options=replace(self.options, model=model))

    def generator(self) -> Generator:
        """The averaged generator in evaluation mode, on the CPU."""
        options = self.options
        generator = build_generator(options.model, options.damsm.word_dim, options.training.seed)
        load_weights(generator, self.folder / "average.safetensors")
        return generator.eval().requires_grad_(False)

    def restore(self, precision: Precision) -> TrainingState:
        """The state after :attr:`step` steps, on the precision's device."""
        options = self.options
        state = initial_state(options.model, options.discriminator, options.training, options.damsm.word_dim, precision)
        load_weights(state.generator, self.folder / "generator.safetensors")
        load_weights(state.average.model, self.folder / "average.safetensors")
        load_weights(state.discriminators, self.folder / "discriminators.safetensors")
        tensors = load_tensors(self.folder / "optimizers.safetensors")
        restore_optimizers(state.optimizers, self.header["optimizers"], tensors)
        state.guarded.scaler.load_state_dict(self.header["loss_scale"])
        state.skipped.fill_(self.header["skipped"])
        state.skipped_in_row.fill_(self.header["skipped_in_row"])
        state.step = self.step
        return state


@dataclass(frozen=True)
class Snapshot:
    """A copy of a training state on the host, which the steps that follow don't change."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """By file name."""
    header: dict[str, Any]


def snapshot(state: TrainingState) -> Snapshot:
    """Copy all that a resume needs; waits for the device."""
    groups, moments = optimizer_parts(state.optimizers)
    parts = {
        "generator": state.generator.state_dict(),
        "average": state.average.model.state_dict(),
        "discriminators": state.discriminators.state_dict(),
        "optimizers": moments,
    }
    header = {
        "optimizers": copy.deepcopy(groups),
        "loss_scale": copy.deepcopy(state.guarded.scaler.state_dict()),
        "skipped": state.skipped.item(),
        "skipped_in_row": state.skipped_in_row.item(),
    }
    return Snapshot(state.step, {f"{name}.safetensors": on_host(own) for name, own in parts.items()}, header)


def save_checkpoint(folder: Path, taken: Snapshot, encoders: Encoders, options: Options) -> Path:
    """Write ``step-<step>`` below ``folder`` under a temporary name and rename it; returns its path.

    Raises:
        UserError: if it can't be written; nothing of it stays.
    """

    def write(path: Path) -> dict[str, Any]:
        write_text(path / "config.yaml", to_yaml(options))
        encoders.save(path / "encoders")
        for name, tensors in taken.tensors.items():
            write_tensors(path / name, tensors)
        return taken.header

    return write_checkpoint(folder, taken.step, write)


def load_checkpoint(path: Path, *, pass_over_damaged: bool = False) -> Checkpoint:
    """Find and verify a checkpoint: ``path`` is one, or a run folder, whose newest one is taken.

    Args:
        pass_over_damaged: of a run folder take the newest one that is whole, and name those that aren't.

    Raises:
        UserError: if there is none, or a file of it is missing or damaged.
    """
    if pass_over_damaged:
        folder, header = newest_whole(path)
    else:
        folder = find_checkpoint(path)
        header = read_header(folder)
    return Checkpoint(folder, load_options(folder / "config.yaml"), header)
