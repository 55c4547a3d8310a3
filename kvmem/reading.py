"""The layer's reading half as a function of tensors: key addressing, value reading, gated response."""

from typing import Literal, TypedDict, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from kvmem import library, read_ops
from kvmem.backends import Backend, pick_backend, pick_instead
from kvmem.checks import ChannelDim, check_layout, check_read_tensors, check_slots, gpu_limit
from kvmem.functional import autocast_dtype, cast, cast_parameters
from kvmem.layouts import as_image, like_features, like_positions
from kvmem.reference import memory_read_eager
from kvmem.transforms import transform


class ReadArguments(TypedDict, total=False):
    """The keywords of `memory_read` but return_attention."""

    response_gate_weight: Tensor | None
    response_gate_bias: Tensor | None
    channel_dim: ChannelDim
    backend: Backend | None


@overload
def memory_read(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    return_attention: Literal[False] = False,
    **arguments: Unpack[ReadArguments],
) -> Tensor: ...


@overload
def memory_read(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    return_attention: Literal[True],
    **arguments: Unpack[ReadArguments],
) -> tuple[Tensor, Tensor]: ...


@overload
def memory_read(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    return_attention: bool,
    **arguments: Unpack[ReadArguments],
) -> Tensor | tuple[Tensor, Tensor]: ...


def memory_read(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    response_gate_weight: Tensor | None = None,
    response_gate_bias: Tensor | None = None,
    return_attention: bool = False,
    channel_dim: ChannelDim = 1,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Reads a memory that was written elsewhere: a bank, a cache, retrieved entries.

    α = softmax_t(k_t · h_n), o_n = Σ_t α_t v_t, and with a response gate γ = σ(W_g [h, o] + b_g) the response
    (1 - γ) h + γ o, else o: steps 2 to 4 of `kvmem.kv_memory`. The scores aren't divided by √C: scale the keys.

    With B images of C channels and T slots:

    - image (B, C, H, W), any strides; or of any other number of spatial dimensions; or, with channel_dim -1, with
      channels last, such as tokens (B, N, C)
    - keys and values (B, T, C), or (T, C) where all images share them
    - mask (B, T) or (T,) bool, True where the slot holds an entry (None: all do). What stands in a slot without one
      doesn't matter. An image without any reads zero.
    - response_gate_weight (R, 2C), response_gate_bias (R,), where R is 1 or C, both or neither; the first C inputs are
      the image. backend: a name of `kvmem.backends()`, None picks

    Returns the response, with image's shape, dtype and memory format; with return_attention also the attention
    (B, T, H, W), or (B, T, ...) with image's spatial dimensions. Both are differentiable, any number of times, under
    `torch.func` by way of the eager form. Keys and values may be in float32 where image has 16 bits, and so may the
    gate; under `torch.autocast` an image other than float64 is cast to the autocast dtype, and they as well unless both
    are in float32.

    Raises ValueError or TypeError, naming the argument, where ranks, shapes, dtypes or devices don't fit, and
    RuntimeError where the chosen backend can't run. Source: the KVM-GAN draft, section 3.2; key-value memory networks
    (Miller et al., EMNLP 2016) for reading without a gate.
    """
    check_layout(image, channel_dim)
    features, image = image, as_image(image, channel_dim)
    check_slots(keys, values, mask)
    batch = image.shape[0]
    keys, values = (slots.expand(batch, -1, -1) if slots.dim() == 2 else slots for slots in (keys, values))
    mask = mask.expand(batch, -1) if mask is not None and mask.dim() == 1 else mask
    slots, gate = (keys, values), (response_gate_weight, response_gate_bias)
    dtype = autocast_dtype(image.device.type)
    if dtype is None:
        out, attention = _run(image, *slots, *gate, mask, return_attention, backend)
    else:
        (image,), slots, gate = cast((image,), dtype), cast_parameters(slots, dtype), cast_parameters(gate, dtype)
        with torch.autocast(image.device.type, enabled=False):
            out, attention = _run(image, *slots, *gate, mask, return_attention, backend)
    out = like_features(out, features, channel_dim)
    return (out, like_positions(attention, features, channel_dim)) if return_attention else out


def _run(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    mask: Tensor | None,
    return_attention: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """Response and attention; the latter is empty, or isn't, where it wasn't asked for."""
    check_read_tensors(image, keys, values, mask, gate_weight, gate_bias)
    name = pick_backend(backend, image.device)
    if name in ("cuda", "triton") and (limit := gpu_limit(image, keys)):
        name = pick_instead(name, backend, limit)
    if name == "eager" or transform() is not None:
        return memory_read_eager(image, keys, values, mask, gate_weight, gate_bias)
    operators = library.TRITON if name == "triton" else library.COMPILED
    return read_ops.memory_read(operators, image, keys, values, mask, (gate_weight, gate_bias), return_attention)
