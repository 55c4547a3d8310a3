"""What processes that are started anew do with a layer: importable by them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 3


def trained(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Gradients of the first step and parameters after the last."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found: list[Tensor] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        if step == 0:
            found = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
    return found + [parameter.detach().clone() for parameter in model.parameters()]


def trained_in_parallel(rank: int, layer: nn.Module, inputs: tuple[Tensor, ...], folder: str) -> None:
    """As one of two processes, each with half of the batch; saves what `trained` returns."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    # What is sent to a process shares its memory with all others.
    model = DistributedDataParallel(copy.deepcopy(layer))
    half = tuple(tensor.chunk(2)[rank] for tensor in inputs)
    torch.save(trained(model, half), Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()
