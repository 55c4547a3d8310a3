"""The key-value memory layer as a function of tensors."""

from typing import Literal, TypedDict, overload

import torch
from torch import Tensor
from typing_extensions import Required, Unpack

from kvmem import library, ops
from kvmem.backends import Backend, pick_backend, pick_instead
from kvmem.checks import (
    ACTIVATIONS,
    WRITE_GATES,
    Activation,
    ChannelDim,
    WriteGate,
    check_choice,
    check_layout,
    check_tensors,
    gpu_limit,
)
from kvmem.layouts import as_image, like_features, like_positions
from kvmem.reference import kv_memory_eager
from kvmem.tracing import traced_as_constant
from kvmem.transforms import kv_memory_transformed, transform


class Arguments(TypedDict, total=False):
    """The keywords of `kv_memory` but return_attention."""

    gate_word: Required[Tensor]
    gate_image: Required[Tensor]
    write_word_weight: Required[Tensor]
    write_word_bias: Required[Tensor]
    write_image_weight: Required[Tensor]
    write_image_bias: Required[Tensor]
    key_weight: Required[Tensor]
    key_bias: Required[Tensor]
    value_weight: Required[Tensor]
    value_bias: Required[Tensor]
    response_gate_weight: Required[Tensor]
    response_gate_bias: Required[Tensor]
    write_gate: WriteGate
    activation: Activation
    detach_mean: bool
    channel_dim: ChannelDim
    backend: Backend | None


@overload
def kv_memory(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None = None,
    *,
    return_attention: Literal[False] = False,
    **arguments: Unpack[Arguments],
) -> Tensor: ...


@overload
def kv_memory(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None = None,
    *,
    return_attention: Literal[True],
    **arguments: Unpack[Arguments],
) -> tuple[Tensor, Tensor]: ...


@overload
def kv_memory(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None = None,
    *,
    return_attention: bool,
    **arguments: Unpack[Arguments],
) -> Tensor | tuple[Tensor, Tensor]: ...


def kv_memory(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None = None,
    *,
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
    write_gate: WriteGate = "sigmoid",
    activation: Activation = "relu",
    detach_mean: bool = False,
    return_attention: bool = False,
    channel_dim: ChannelDim = 1,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Refines image features by a memory written from word features; `kvmem.KVMemoryLayer` is this with parameters.

    With B images of C channels, T slots of D word channels, M memory channels:

    - image (B, C, H, W), any strides; or of any other number of spatial dimensions, (B, C, L) and (B, C, D, H, W), say;
      or, with channel_dim -1, with channels last, such as tokens (B, N, C)
    - words (B, T, D); mask (B, T) bool, True where the slot holds a word (None: all do). What stands in a slot without
      a word doesn't matter. An image without any word gets a response of zero.
    - gate_word (G, D), gate_image (G, C), where G is 1 (scalar write gate) or M (vector write gate)
    - write_word_weight (M, D), write_word_bias (M,), write_image_weight (M, C), write_image_bias (M,)
    - key_weight (C, M), key_bias (C,), value_weight (C, M), value_bias (C,)
    - response_gate_weight (R, 2C), response_gate_bias (R,), where R is 1 or C; the first C inputs are the image
    - write_gate "sigmoid" or "linear", activation "relu" or "identity", detach_mean: no gradient through the mean of
      image that the memory is written with; backend: a name of `kvmem.backends()`, None picks

    Returns the refined features, with image's shape, dtype and memory format; with return_attention also the attention
    (B, T, H, W), or (B, T, ...) with image's spatial dimensions, which sums to 1 over the slots that hold a word. Both
    are differentiable, any number of times.

    Words and weights may be in float32 where image has 16 bits; then words may also be in image's type. Under
    `torch.autocast` an image other than float64 is cast to the autocast dtype; words and weights stay as they are where
    they fit such an image, and are cast as it is where they don't.

    Raises ValueError or TypeError, naming the argument, where ranks, shapes, dtypes, devices or options don't fit, and
    RuntimeError where the chosen backend can't run. Source: the KVM-GAN draft, section 3.2; DM-GAN (CVPR 2019).
    """
    weights = (
        gate_word,
        gate_image,
        write_word_weight,
        write_word_bias,
        write_image_weight,
        write_image_bias,
        key_weight,
        key_bias,
        value_weight,
        value_bias,
        response_gate_weight,
        response_gate_bias,
    )
    check_choice("write_gate", write_gate, WRITE_GATES)
    check_choice("activation", activation, ACTIVATIONS)
    check_layout(image, channel_dim)
    options = (write_gate == "linear", activation == "relu", detach_mean)
    features, image = image, as_image(image, channel_dim)
    out, attention = _cast_and_run(image, words, mask, weights, options, return_attention, backend)
    if image is not features:
        out = like_features(out, features, channel_dim)
        attention = like_positions(attention, features, channel_dim) if return_attention else attention
    return (out, attention) if return_attention else out


def _cast_and_run(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    weights: tuple[Tensor, ...],
    options: tuple[bool, bool, bool],
    return_attention: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """The call under autocast's rule, where that is on."""
    dtype = autocast_dtype(image.device.type)
    if dtype is not None:
        (image,), weights = cast((image,), dtype), cast_parameters(weights, dtype)
        if not _same_type(words, weights[0]):
            (words,) = cast((words,), dtype)
        with torch.autocast(image.device.type, enabled=False):
            return _run(image, words, mask, weights, options, return_attention, backend)
    return _run(image, words, mask, weights, options, return_attention, backend)


def _run(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    weights: tuple[Tensor, ...],
    options: tuple[bool, bool, bool],
    return_attention: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """Response and attention; the latter is empty, or isn't, where it wasn't asked for."""
    check_tensors(image, words, mask, weights)
    name = pick_backend(backend, image.device)
    if name in ("cuda", "triton") and (limit := gpu_limit(image, words)):
        name = pick_instead(name, backend, limit)
    transformed = transform() if name != "eager" else None
    if name == "eager" or transformed == "eager":
        return kv_memory_eager(image, words, mask, weights, options)
    operators = library.TRITON if name == "triton" else library.COMPILED
    run = kv_memory_transformed if transformed else ops.kv_memory
    return run(operators, image, words, mask, weights, options, return_attention)


def autocast_dtype(device: str) -> torch.dtype | None:
    """What autocast casts to on a kind of device; None where it is off."""
    on = _has_autocast(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


# Not every torch.compile can trace the question.
@traced_as_constant
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _same_type(one: Tensor, other: Tensor) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and one.dtype == other.dtype


def cast_parameters(tensors: tuple[Tensor | None, ...], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    """As they are where all are float32, which the kernels read beside an image of 16 bits; else by autocast's rule."""
    wide = all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 for tensor in tensors)
    return tensors if wide else tuple(cast(tensors, dtype))


def cast(tensors: tuple[Tensor | None, ...], dtype: torch.dtype) -> list[Tensor | None]:
    """Autocast's rule for the operators that it runs in lower precision."""
    return [
        tensor.to(dtype)
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
        else tensor
        for tensor in tensors
    ]
