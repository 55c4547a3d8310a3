"""Checkpoints: folders of safetensors and JSON that hold everything a resume needs and sample from nothing else.

``step-000123/``: ``config.yaml``, ``encoders/``, ``generator``, ``average``, ``discriminators`` and ``optimizers``
(``.safetensors``), and ``checkpoint.json`` with the step, the optimisers' settings, the loss scale, the skipped steps
and the SHA-256 of every other file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kvmgan.config import Options
from kvmgan.config_file import load_options, to_yaml
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.files import load_tensors, save_tensors, write_text
from kvmgan.models.generator import Generator
from kvmgan.pretraining.encoders import Encoders, load_encoders, load_weights
from kvmgan.runs.checkpoint_folder import find_checkpoint, read_header, write_checkpoint
from kvmgan.runs.optimizer_files import optimizer_parts, restore_optimizers
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


def save_checkpoint(folder: Path, state: TrainingState, encoders: Encoders, options: Options) -> Path:
    """Write ``step-<step>`` below ``folder`` under a temporary name and rename it; returns its path."""

    def write(path: Path) -> dict[str, Any]:
        write_text(path / "config.yaml", to_yaml(options))
        encoders.save(path / "encoders")
        save_tensors(path / "generator.safetensors", state.generator.state_dict())
        save_tensors(path / "average.safetensors", state.average.model.state_dict())
        save_tensors(path / "discriminators.safetensors", state.discriminators.state_dict())
        groups, tensors = optimizer_parts(state.optimizers)
        save_tensors(path / "optimizers.safetensors", tensors)
        return {
            "optimizers": groups,
            "loss_scale": state.guarded.scaler.state_dict(),
            "skipped": state.skipped.item(),
            "skipped_in_row": state.skipped_in_row.item(),
        }

    return write_checkpoint(folder, state.step, write)


def load_checkpoint(path: Path) -> Checkpoint:
    """Find and verify a checkpoint: ``path`` is one, or a run folder, whose newest one is taken.

    Raises:
        UserError: if there is none, or a file of it is missing or damaged.
    """
    folder = find_checkpoint(path)
    header = read_header(folder)
    return Checkpoint(folder, load_options(folder / "config.yaml"), header)
