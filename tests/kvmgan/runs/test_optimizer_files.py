"""Optimisers survive a checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from kvmgan.runs.optimizer_files import optimizer_parts, restore_optimizers
from kvmgan.storage.tensor_file import load_tensors, save_tensors


def _train(network: nn.Module, optimizer: torch.optim.Adam, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()


def _pair(layout: torch.memory_format) -> tuple[nn.Module, torch.optim.Adam]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3)).to(memory_format=layout)
    return network, torch.optim.Adam(network.parameters(), 0.01, fused=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_next_step_is_the_same(tmp_path, layout):
    """Through files: the steps after are bit for bit those of the optimiser that was saved, whatever the layout.

    A file holds tensors in plain order; fused Adam walks weight and moments side by side in memory.
    """
    network, optimizer = _pair(layout)
    _train(network, optimizer, 1)
    groups, tensors = optimizer_parts({"own": optimizer})
    save_tensors(tmp_path / "optimizer.safetensors", tensors)

    other, restored = _pair(layout)
    other.load_state_dict(network.state_dict())
    loaded = load_tensors(tmp_path / "optimizer.safetensors")
    restore_optimizers({"own": restored}, json.loads(json.dumps(groups)), loaded)
    for seed in (2, 3):
        _train(network, optimizer, seed)
        _train(other, restored, seed)
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(network[0].weight, _pair(layout)[0][0].weight)
