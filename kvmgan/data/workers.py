"""Worker processes that load data, and what becomes of their failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

from kvmgan.errors import UserError

# How the loader hands on what a worker has raised: with the worker's traceback as text, the error's own line last.
_RAISED = re.compile(r"^kvmgan\.errors\.\w+: (.*)", re.DOTALL | re.MULTILINE)


def load_by_workers(dataset: torch.utils.data.Dataset, workers: int, **options: Any) -> Iterator[Any]:
    """Yield what so many worker processes load, in order; the framework's random state is left alone.

    options: of `torch.utils.data.DataLoader`.
    Raise `UserError` with a worker's own message where it raised one, and when there is no shared memory for what it
    hands over. One that is killed is an error that `loss_of_worker` knows.
    """
    # A generator of its own keeps the loader from drawing its seed from the framework's random state.
    loader = torch.utils.data.DataLoader(dataset, num_workers=workers, generator=torch.Generator(), **options)
    try:
        yield from loader
    except UserError as error:
        found = _RAISED.search(str(error))
        raise type(error)(found.group(1).strip() if found else str(error)) from None
    except (RuntimeError, OSError) as error:
        lost = loss_of_worker(error)
        if lost is None:
            raise
        raise lost from None


def loss_of_worker(error: Exception) -> UserError | None:
    """Return what is to be said of an error by which torch tells that a worker is gone, or had no room for a batch.

    None for any other. Torch has no type for it, and raises it wherever the program is when the worker dies.
    """
    text = str(error)
    gone = "DataLoader worker" in text and ("killed" in text or "exited" in text)
    if not gone and "shared memory" not in text:
        return None
    return UserError(
        f"a process that loads data was lost ({_cause(error)}): it may have been killed, or the machine is short of "
        "memory, or of shared memory in /dev/shm; fewer --data.workers need less, 0 none"
    )


def _cause(error: Exception) -> str:
    """The error's own line: of one that came from a worker the last, behind its traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1 if "Traceback" in str(error) else 0].rstrip(". ")
