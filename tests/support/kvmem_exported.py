"""Layers as programs that are exported: their inputs, which sizes of them vary, and what the programs call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import kvmem

CHANNELS, WORD_CHANNELS = 8, 12
# Batch, slots, spatial sizes: what is traced, and what is run. One of everything is no case of its own.
TRACED = (3, 5, (4, 6, 2))
SIZES = (TRACED, (2, 3, (5, 2, 3)), (1, 1, (1, 1, 1)), (1, 7, (3, 4, 2)), (4, 1, (1, 9, 1)))


@dataclass(frozen=True)
class Layout:
    """Of an image: which dimension has the channels, how many are spatial, whether in channels_last memory."""

    channel_dim: int = 1
    spatial: int = 2
    channels_last: bool = False

    def layer(self, backend: str | None = None, dtype: torch.dtype = torch.float32) -> kvmem.KVMemoryLayer:
        """With the same parameters whatever the backend and the type."""
        torch.manual_seed(0)
        layer = kvmem.KVMemoryLayer(CHANNELS, WORD_CHANNELS, channel_dim=self.channel_dim, backend=backend)
        return layer.to(dtype).eval()

    def inputs(self, batch: int, slots: int, spatial: tuple[int, ...], mask: bool = True) -> list[Tensor]:
        """Image and words, with a mask of which the first image has no word."""
        generator = torch.Generator().manual_seed(batch + slots)
        sizes = spatial[: self.spatial]
        shape = (batch, CHANNELS, *sizes) if self.channel_dim == 1 else (batch, *sizes, CHANNELS)
        image = torch.randn(shape, generator=generator)
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        words = torch.randn(batch, slots, WORD_CHANNELS, generator=generator)
        some = torch.rand(batch, slots, generator=generator) < 0.6
        some[:1] = False
        return [image, words, some] if mask else [image, words]

    def dynamic(self, mask: bool = True) -> tuple[dict[int, Dim], ...]:
        """Batch, slots and every spatial size."""
        first = 2 if self.channel_dim == 1 else 1
        batch, slots = Dim("batch"), Dim("slots")
        image = {0: batch, **{first + i: Dim(f"size{i}") for i in range(self.spatial)}}
        return (image, *({0: batch, 1: slots} for _ in range(1 + mask)))


LAYOUTS = {
    "image": Layout(),
    "channels_last": Layout(channels_last=True),
    "tokens": Layout(channel_dim=-1, spatial=1),
    "volume": Layout(spatial=3),
}


class WithAttention(nn.Module):
    """A model around the layer that returns both of its outputs."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(*inputs, return_attention=True)


class Reader(nn.Module):
    """A model around `memory_read` that returns both of its outputs: keys and values are maps of the words."""

    def __init__(self, layer: kvmem.KVMemoryLayer):
        super().__init__()
        torch.manual_seed(0)
        self.keys, self.values = (nn.Linear(WORD_CHANNELS, CHANNELS, dtype=layer.key.weight.dtype) for _ in range(2))
        self.gate, self.backend = layer.response_gate, layer.backend

    def forward(self, image: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        gate = {"response_gate_weight": self.gate.weight, "response_gate_bias": self.gate.bias}
        read = (image, self.keys(words), self.values(words), mask)
        return kvmem.memory_read(*read, **gate, return_attention=True, backend=self.backend)


class Autocast(nn.Module):
    """A model that runs the layer in bfloat16."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.layer(*inputs)


def exported(model: nn.Module, layout: Layout, mask: bool = True) -> ExportedProgram:
    """The model with every size but those of channels free."""
    dynamic = layout.dynamic(mask)
    variadic = isinstance(model, (WithAttention, Autocast))
    shapes = (dynamic,) if variadic else dynamic
    return torch.export.export(model, tuple(layout.inputs(*TRACED, mask)), dynamic_shapes=shapes)


def called(program: ExportedProgram) -> list[str]:
    """The names of what a program calls, in its regions of autocast too."""
    graphs = [one.graph for one in program.graph_module.modules() if isinstance(one, torch.fx.GraphModule)]
    return [str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"]
