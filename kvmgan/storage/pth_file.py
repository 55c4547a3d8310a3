"""Files that `torch.save` wrote, read without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from kvmgan.data.readers.safe_pickle import DAMAGED
from kvmgan.errors import MissingFileError, UserError


def load_pth(path: Path, purpose: str) -> Any:
    """Return what `path` holds, its tensors on the CPU; `purpose` says in an error what it should hold.

    Raises `UserError` when the file is missing or damaged, or asks for more than tensors and plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing: it should hold {purpose}") from None
    except pickle.UnpicklingError:
        # Not torch's own words: they advise to load the file with all that it asks for.
        raise UserError(f"{path} isn't read: it is damaged, or asks for more than tensors") from None
    except (OSError, RuntimeError, *DAMAGED) as error:
        raise UserError(f"{path} can't be read as weights ({type(error).__name__}: {error})") from None
