"""The equations of the key-value memory layer in plain PyTorch: the specification that every backend is held to."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from kvmem.checks import HALVES

Map = Callable[[Tensor], Tensor]


def equations(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    gate_word: Map,
    gate_image: Map,
    write_word: Map,
    write_image: Map,
    key: Map,
    value: Map,
    response_gate: Callable[[Tensor, Tensor], Tensor],
    linear_write_gate: bool = False,
    relu: bool = True,
    detach_mean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the response (B, C, H, W) and the attention (B, T, H, W).

    image (B, C, H, W), words (B, T, D), mask (B, T) bool, True where the slot holds a word. The maps are affine in the
    last dimension: gate_word D -> G, gate_image C -> G, write_word D -> M, write_image C -> M, key and value M -> C;
    response_gate takes h and o, (B, C, N) each, and returns (B, R, N). Nothing is checked here. Source: the draft's
    section 3.2, as DM-GAN (CVPR 2019) settled it.
    """

    def phi(x: Tensor) -> Tensor:
        return x.relu() if relu else x

    h = image.flatten(2)  # (B, C, N)
    # What stands in a slot that holds no word must not matter, not even if it is NaN.
    w = words if mask is None else words.masked_fill(~mask.unsqueeze(2), 0)

    # 1. Memory writing
    r = h.mean(2).unsqueeze(1)  # (B, 1, C)
    r = r.detach() if detach_mean else r
    g = gate_word(w) + gate_image(r)  # (B, T, 1 or M)
    g = g if linear_write_gate else g.sigmoid()
    m = g * phi(write_word(w)) + (1 - g) * phi(write_image(r))  # (B, T, M)

    out, alpha = _read(h, phi(key(m)), phi(value(m)), mask, response_gate)
    return out.unflatten(2, image.shape[2:]), alpha.unflatten(2, image.shape[2:])


def _read(
    h: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, response_gate: Callable[[Tensor, Tensor], Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Steps 2 to 4: h (B, C, N), k and v (B, T, C); without a response gate o is the response."""
    # 2. Key addressing
    alpha = k @ h  # (B, T, N)
    if mask is None:
        alpha = alpha.softmax(1)
    else:
        slots = mask.unsqueeze(2)
        # The smallest finite number instead of -inf, so that an image without any word gives 0 and not NaN.
        alpha = alpha.masked_fill(~slots, torch.finfo(alpha.dtype).min).softmax(1) * slots

    # 3. Value reading
    o = v.transpose(1, 2) @ alpha  # (B, C, N)
    if response_gate is None:
        return o, alpha

    # 4. Gated response
    gamma = response_gate(h, o).sigmoid()  # (B, 1 or C, N)
    return torch.lerp(h, o, gamma), alpha  # (1 - gamma) h + gamma o


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
    """The equations with the weights of `kvmem.kv_memory`, in the type of its tensors. Nothing is checked here."""
    return equations(
        image,
        words,
        mask,
        partial(linear, weight=gate_word),
        partial(linear, weight=gate_image),
        partial(linear, weight=write_word_weight, bias=write_word_bias),
        partial(linear, weight=write_image_weight, bias=write_image_bias),
        partial(linear, weight=key_weight, bias=key_bias),
        partial(linear, weight=value_weight, bias=value_bias),
        partial(_response_gate, response_gate_weight, response_gate_bias),
        linear_write_gate,
        relu,
        detach_mean,
    )


def _response_gate(weight: Tensor, bias: Tensor, h: Tensor, o: Tensor) -> Tensor:
    gate_h, gate_o = weight.chunk(2, 1)  # W_g [h, o] without writing out [h, o]
    return gate_h @ h + gate_o @ o + bias.unsqueeze(1)


def memory_read_reference(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    response_gate_weight: Tensor | None,
    response_gate_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Steps 2 to 4 with keys and values (B, T, C) as they are given: `kvmem.memory_read` in the tensors' own type."""
    gate = None if response_gate_weight is None else partial(_response_gate, response_gate_weight, response_gate_bias)
    if mask is not None:
        keys, values = (slots.masked_fill(~mask.unsqueeze(2), 0) for slots in (keys, values))
    out, alpha = _read(image.flatten(2), keys, values, mask, gate)
    return out.unflatten(2, image.shape[2:]), alpha.unflatten(2, image.shape[2:])


def kv_memory_eager(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    weights: tuple[Tensor, ...],
    options: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor]:
    """The backend "eager": the reference with float32 arithmetic where the tensors have 16 bits.

    In float16 itself a logit beyond 65,504 is infinite, and attention NaN.
    """
    return _in_float32(kv_memory_reference, image, words, mask, *weights, *options)


def memory_read_eager(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    response_gate_weight: Tensor | None,
    response_gate_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`memory_read_reference` with float32 arithmetic where the tensors have 16 bits."""
    inputs = (image, keys, values, mask, response_gate_weight, response_gate_bias)
    return _in_float32(memory_read_reference, *inputs)


def _in_float32(
    form: Callable[..., tuple[Tensor, Tensor]], image: Tensor, *inputs: Tensor | bool | None
) -> tuple[Tensor, Tensor]:
    """What a form gives of tensors of 16 bits, computed in float32 and in the image's type."""
    if image.dtype not in HALVES:
        return form(image, *inputs)
    wide = (x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    out, attention = form(image.float(), *wide)
    return out.to(image.dtype), attention.to(image.dtype)
