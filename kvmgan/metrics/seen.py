"""What networks see in pictures, streamed: pictures are looked at batch by batch and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# What was seen in N pictures, on the host: "<watcher>.<name>" -> (N, ...).
Seen = dict[str, Tensor]


@dataclass(frozen=True)
class Watcher:
    """A frozen network that looks at pictures.

    name: of the network, in protocols. weights: hash of its weights.
    look: (b, 3, s, s) uint8 on the watcher's device -> name -> (b, ...).
    """

    name: str
    weights: str
    look: Callable[[Tensor], Mapping[str, Tensor]]


@torch.no_grad()
def see(batches: Iterable[Tensor], watchers: Sequence[Watcher]) -> Seen:
    """Let every watcher look at pictures (b, 3, s, s) uint8; returns what they saw, in the pictures' order."""
    parts: dict[str, list[Tensor]] = {}
    for pictures in batches:
        for watcher in watchers:
            for name, values in watcher.look(pictures).items():
                parts.setdefault(f"{watcher.name}.{name}", []).append(values.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def rows_of(seen: Seen, rows: Tensor) -> Seen:
    """What was seen in the pictures ``rows`` (M,) int64, in this order."""
    return {name: values[rows] for name, values in seen.items()}
