"""What can be found wrong before the first expensive step, in one place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kvmgan.config import Options, validate
from kvmgan.errors import UserError
from kvmgan.files import check_writable
from kvmgan.pretraining.encoders import Encoders, find_encoders, load_encoders
from kvmgan.training.builders import build_generator
from kvmgan.training.datasets import with_layout


def prepare(options: Options, folders: dict[str, Path], device: torch.device) -> Options:
    """Check the options and the folders (option -> folder) to be written; returns the options with the data's layout.

    Raises:
        UserError: names the option that must change.
    """
    validate(options)
    options = replace(options, data=with_layout(options.data))
    _check_networks(options, device)
    for option, folder in folders.items():
        check_writable(folder, option)
    return options


def given_encoders(path: Path | None, options: Options) -> tuple[Encoders | None, Options]:
    """The encoders of ``--encoders``, on the CPU, and the options with their shape; None where none are given.

    Raises:
        UserError: if there are none at ``path``.
    """
    if path is None:
        return None, options
    encoders = load_encoders(find_encoders(path))
    return encoders, replace(options, damsm=encoders.shape.put_into(options.damsm))


@torch.no_grad()
def _check_networks(options: Options, device: torch.device) -> None:
    """Build the generator and look at one picture's worth of it: a backend that can't run here shows now."""
    word_dim = options.damsm.word_dim
    dims = options.model.noise_dim, word_dim, options.model.condition_dim
    noise, sentence, condition = (torch.zeros(1, dim, device=device) for dim in dims)
    mask = torch.ones(1, 1, dtype=torch.bool, device=device)
    try:
        generator = build_generator(options.model, word_dim, options.training.seed).to(device).eval()
        generator(noise, sentence, sentence[:, None], mask, condition_noise=condition)
    except (RuntimeError, ValueError) as error:
        backend = options.model.memory.backend
        raise UserError(f"--model.memory.backend {backend}: the generator can't run on {device}: {error}") from None
