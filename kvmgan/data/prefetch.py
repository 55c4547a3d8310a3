"""Batches on their way to the device: the next one is copied while the current one is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch

from kvmgan.data.samples import Batch

Item = TypeVar("Item")


def prefetched(batches: Iterator[Batch], device: torch.device | str) -> Iterator[Batch]:
    """Return the batches on `device` in their order; on the CPU `batches` itself.

    On CUDA the next batch is copied from pinned memory on a stream of its own. One batch is taken ahead, no more; an
    error in making it is raised when it is asked for. The lengths stay on the host.
    """
    device = torch.device(device)
    return _copied(batches, device) if device.type == "cuda" else batches


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield `items` (none of them None), each once the next one was taken; an error in taking it comes in its turn."""
    current = next(items, None)
    while current is not None:
        following, failure = None, None
        try:
            following = next(items, None)
        except Exception as error:
            failure = error
        yield current
        if failure is not None:
            raise failure
        current = following


def _copied(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    copying = torch.cuda.Stream(device)
    for batch, copied in one_ahead(_start_copy(batch, device, copying) for batch in batches):
        using = torch.cuda.current_stream(device)
        # This batch's event, not the stream: that has the next copy in it already.
        using.wait_event(copied)
        # The memory is the copying stream's: it must not be reused before the using stream is done with it.
        for tensor in batch.moving().values():
            tensor.record_stream(using)
        yield batch


def _start_copy(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
    """Queue the copy of `batch` on `stream`; return it with the event of its end."""
    pinned = batch if batch.pixels.is_pinned() else batch.pin_memory()
    with torch.cuda.stream(stream):
        return pinned.to(device), stream.record_event()
