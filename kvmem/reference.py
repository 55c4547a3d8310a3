"""The equations of the key-value memory layer in plain PyTorch: the specification that every backend is held to."""

import torch
from torch import Tensor
from torch.nn.functional import linear


def kv_memory_reference(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    gate_word: Tensor,
    gate_image: Tensor,
    write_word_weight: Tensor,
    write_word_bias: Tensor,
    write_image_weight: Tensor,
    write_image_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    response_gate_weight: Tensor,
    response_gate_bias: Tensor,
    linear_write_gate: bool = False,
    relu: bool = True,
    detach_mean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the response (B, C, H, W) and the attention (B, T, H, W).

    image (B, C, H, W), words (B, T, D), mask (B, T) bool, True where the slot holds a word; the weights are those of
    `kvmem.kv_memory`. Nothing is checked here. Source: the draft's section 3.2, as DM-GAN (CVPR 2019) settled it.
    """

    def phi(x: Tensor) -> Tensor:
        return x.relu() if relu else x

    h = image.flatten(2)  # (B, C, N)
    # What stands in a slot that holds no word must not matter, not even if it is NaN.
    w = words if mask is None else words.masked_fill(~mask.unsqueeze(2), 0)

    # 1. Memory writing
    r = h.mean(2).unsqueeze(1)  # (B, 1, C)
    r = r.detach() if detach_mean else r
    g = linear(w, gate_word) + linear(r, gate_image)  # (B, T, 1 or M)
    g = g if linear_write_gate else g.sigmoid()
    m = g * phi(linear(w, write_word_weight, write_word_bias))
    m = m + (1 - g) * phi(linear(r, write_image_weight, write_image_bias))  # (B, T, M)

    # 2. Key addressing
    k = phi(linear(m, key_weight, key_bias))  # (B, T, C)
    alpha = k @ h  # (B, T, N)
    if mask is None:
        alpha = alpha.softmax(1)
    else:
        slots = mask.unsqueeze(2)
        # The smallest finite number instead of -inf, so that an image without any word gives 0 and not NaN.
        alpha = alpha.masked_fill(~slots, torch.finfo(alpha.dtype).min).softmax(1) * slots

    # 3. Value reading
    v = phi(linear(m, value_weight, value_bias))  # (B, T, C)
    o = v.transpose(1, 2) @ alpha  # (B, C, N)

    # 4. Gated response
    gate_h, gate_o = response_gate_weight.chunk(2, 1)  # W_g [h, o] without writing out [h, o]
    gamma = (gate_h @ h + gate_o @ o + response_gate_bias.unsqueeze(1)).sigmoid()  # (B, 1 or C, N)
    out = torch.lerp(h, o, gamma)  # (1 - gamma) h + gamma o
    return out.unflatten(2, image.shape[2:]), alpha.unflatten(2, image.shape[2:])
