"""Tensors as safetensors files: read with clear errors, written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from kvmgan.errors import UserError
from kvmgan.files import atomic_file


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors on the host, which share nothing with them or with each other."""
    # A clone each: safetensors refuses tensors that share storage, as an LSTM's flattened weights do.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device as one safetensors file, atomically. Raises as `write_tensors` does."""
    write_tensors(path, on_host(tensors))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write what :func:`on_host` returned as one safetensors file, atomically.

    Raises:
        OSError: if it can't be written.
    """
    with atomic_file(path) as temporary:
        # safetensors lets nobody but the owner read its files; these are as readable as any that the user writes.
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            safetensors.torch.save_file(dict(tensors), temporary)
            temporary.chmod(mode)
        except SafetensorError as error:
            # What the file system says comes in its own type, the number in words.
            found = re.search(r"os error (\d+)", str(error))
            number = int(found.group(1)) if found else errno.EIO
            raise OSError(number, os.strerror(number) if found else str(error), str(path)) from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore it or name another checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is corrupt ({error}): restore it or name another checkpoint") from None
