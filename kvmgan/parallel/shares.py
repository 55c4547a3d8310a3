"""Work that processes share where nothing but its outcome is exchanged."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from kvmgan.parallel import processes


def own_share(rows: Tensor) -> Tensor:
    """This process's stretch of some rows (N, ...): nearly equal ones, in the order of the processes."""
    return rows.tensor_split(processes.count())[processes.rank()]


def together(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What all processes found in their stretches, tensors (n, ...) on the host by name, put together (N, ...).

    The processes' stretches may differ in length, and be empty: then nothing was found there.
    """
    if processes.count() == 1:
        return dict(found)
    everyone: list[Mapping[str, Tensor]] = [{}] * processes.count()
    dist.all_gather_object(everyone, dict(found), group=processes.control())
    names = next((list(one) for one in everyone if one), [])
    return {name: torch.cat([one[name] for one in everyone if one]) for name in names}
