"""Where a model is kept: a pipeline's folder, one that ships with the package, a run, a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.models.generator import Generator
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.pipeline.folder import WEIGHTS, is_pipeline, read_description, read_weights
from kvmgan.pipeline.settings import PipelineSettings
from kvmgan.pipeline.shipped import NAMES, shipped_folder, shipped_names
from kvmgan.pretraining.encoders import load_shape, load_text_encoder, put_weights
from kvmgan.training.builders import build_generator
from kvmgan.training.checkpoint import Checkpoint, load_checkpoint
from kvmgan.training.device import with_runnable_backend


@dataclass(frozen=True)
class StoredModel:
    """A model whose files have been found whole; its networks are read when they are asked for.

    load: generator and text encoder for a device, frozen, in evaluation mode and float32, on the CPU.

    Raises, when called, `UserError` naming the file whose weights don't fit or aren't finite.
    """

    settings: PipelineSettings
    vocabulary: Vocabulary
    load: Callable[[torch.device], tuple[Generator, TextEncoder]]


def find_model(source: str | Path) -> StoredModel:
    """Find a model by the name of one that ships with the package, or by a path.

    Args:
        source: a name, or a folder that :meth:`kvmgan.Pipeline.save_pretrained` wrote, a run folder (its newest
            checkpoint is taken) or a checkpoint. Text that is the name of a shipped model means that model.

    Raises:
        UserError: nothing is there, and what is known; or a file is missing, damaged or of another version.
    """
    if isinstance(source, str) and source in shipped_names():
        return _of_folder(shipped_folder(source))
    path = Path(source)
    if isinstance(source, str) and not path.exists() and path.name == source:
        raise UserError(_unknown(source))
    return _of_folder(path) if is_pipeline(path) else _of_checkpoint(load_checkpoint(path))


def _unknown(name: str) -> str:
    shipped = ", ".join(shipped_names()) or "none"
    if name in NAMES:
        return (
            f"this build of kvmgan ships no model {name!r} ({shipped_folder(name)} is missing): name a run, a "
            "checkpoint or a folder that Pipeline.save_pretrained wrote"
        )
    return (
        f"{name} doesn't exist, and is no model that this build of kvmgan ships ({shipped}): name a run, a checkpoint "
        "or a folder that Pipeline.save_pretrained wrote"
    )


def _of_folder(folder: Path) -> StoredModel:
    settings, vocabulary = read_description(folder)

    def load(device: torch.device) -> tuple[Generator, TextEncoder]:
        weights = read_weights(folder)
        generator = build_generator(with_runnable_backend(settings.model, device), settings.word_dim, seed=0)
        sizes = {"embedding_dim": settings.embedding_dim, "word_dim": settings.word_dim}
        text = TextEncoder(len(vocabulary), **sizes, dropout=0.0)
        return _filled(generator, weights, "generator", folder), _filled(text, weights, "text_encoder", folder)

    return StoredModel(settings, vocabulary, load)


def _filled(
    network: nn.Module, weights: dict[str, dict[str, Tensor]], name: str, folder: Path
) -> Generator | TextEncoder:
    put_weights(network, weights.get(name, {}), folder / WEIGHTS)
    return network.eval().requires_grad_(False)


def _of_checkpoint(checkpoint: Checkpoint) -> StoredModel:
    encoders, options = checkpoint.folder / "encoders", checkpoint.options
    shape = load_shape(encoders)
    judged = options.evaluation
    settings = PipelineSettings(options.model, shape.embedding_dim, shape.word_dim, judged.max_words, judged.tries)

    def load(device: torch.device) -> tuple[Generator, TextEncoder]:
        return checkpoint.runnable_on(device).generator(), load_text_encoder(encoders)[2]

    return StoredModel(settings, checkpoint.vocabulary(), load)
