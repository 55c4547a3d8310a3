"""The layer as one would put it together around torch's attention."""

import torch
from torch.nn.functional import scaled_dot_product_attention

import kvmem


class AttentionComposition(torch.nn.Module):
    """The layer, its addressing and reading by scaled_dot_product_attention: queries h, keys k, values v, scale 1."""

    def __init__(self, layer: kvmem.KVMemoryLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        h = image.flatten(2)
        r = h.mean(2).unsqueeze(1)
        g = (layer.gate_word(words) + layer.gate_image(r)).sigmoid()
        m = g * layer.write_word(words).relu() + (1 - g) * layer.write_image(r).relu()
        k, v = layer.key(m).relu(), layer.value(m).relu()
        # The attention kernels want channels innermost: for a contiguous image that is a copy.
        q = h.transpose(1, 2).contiguous()
        o = scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), scale=1.0)
        o = o.squeeze(1).transpose(1, 2)
        gate_h, gate_o = layer.response_gate.weight.chunk(2, 1)
        gamma = (gate_h @ h + gate_o @ o + layer.response_gate.bias.unsqueeze(1)).sigmoid()
        return torch.lerp(h, o, gamma).unflatten(2, image.shape[2:])
