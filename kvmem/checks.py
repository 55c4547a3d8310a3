"""What `kv_memory` refuses, and the words it refuses it in."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

WriteGate = Literal["sigmoid", "linear"]
Activation = Literal["relu", "identity"]
GateWidth = Literal["scalar", "vector"]
ChannelDim = Literal[1, -1]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HALVES = (torch.bfloat16, torch.float16)
WRITE_GATES: tuple[WriteGate, ...] = get_args(WriteGate)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
GATE_WIDTHS: tuple[GateWidth, ...] = get_args(GateWidth)
GPU_CHANNELS, GPU_SLOTS = 512, 128
_ORDINARY = (Tensor, nn.Parameter)
WEIGHT_NAMES = (
    "gate_word",
    "gate_image",
    "write_word_weight",
    "write_word_bias",
    "write_image_weight",
    "write_image_bias",
    "key_weight",
    "key_bias",
    "value_weight",
    "value_bias",
    "response_gate_weight",
    "response_gate_bias",
)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError where an option has none of its values."""
    if value not in choices:
        expected = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def check_tensors(image: Tensor, words: Tensor, mask: Tensor | None, weights: tuple[Tensor, ...]) -> None:
    """Raises ValueError or TypeError where the arguments of `kv_memory` don't fit together.

    weights: the twelve tensors of `WEIGHT_NAMES`, in that order. Sizes are read off image (B, C, H, W), words
    (B, T, D), the rows of write_word_weight (M), gate_word (1 or M) and response_gate_weight (1 or C). Weights have one
    type, the image's or, where that has 16 bits, float32; words have the image's type or the weights'.
    """
    check_inputs(image, words, mask, beside=weights[0])
    gate_word, _, write_word_weight, *_, response_gate_weight, _ = weights
    _check_rank("gate_word", gate_word, 2, "(1 or M, D)")
    _check_rank("write_word_weight", write_word_weight, 2, "(M, D)")
    _check_rank("response_gate_weight", response_gate_weight, 2, "(1 or C, 2C)")
    channels = image.shape[1]
    memory_channels, gates, response_gates = (
        write_word_weight.shape[0],
        gate_word.shape[0],
        response_gate_weight.shape[0],
    )
    _check_gate_width("gate_word", gates, memory_channels)
    _check_gate_width("response_gate_weight", response_gates, channels)
    expected = (
        (gates, words.shape[2]),
        (gates, channels),
        (memory_channels, words.shape[2]),
        (memory_channels,),
        (memory_channels, channels),
        (memory_channels,),
        (channels, memory_channels),
        (channels,),
        (channels, memory_channels),
        (channels,),
        (response_gates, 2 * channels),
        (response_gates,),
    )
    if _are_plain(weights, expected, image):
        return
    for name, tensor, shape in zip(WEIGHT_NAMES, weights, expected, strict=True):
        _check_shape_on_device(name, tensor, shape, image)
    _check_parameter_types(list(zip(WEIGHT_NAMES, weights, strict=True)), image)


def check_channel_dim(channel_dim: int) -> None:
    """Raises ValueError unless it is 1 or -1."""
    if channel_dim not in (1, -1):
        raise ValueError(f"channel_dim: got {channel_dim!r}, expected 1 (channels first) or -1 (channels last)")


def check_layout(image: Tensor, channel_dim: int) -> None:
    """Raises ValueError for another channel_dim than 1 and -1, ValueError or TypeError for what is no image."""
    check_channel_dim(channel_dim)
    _check_tensor("image", image)
    if image.dim() < 3:
        shapes = "(B, C, H, W), (B, C, L), ..." if channel_dim == 1 else "(B, N, C), (B, H, W, C), ..."
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected at least 3 dimensions {shapes}")


def check_image(image: Tensor) -> None:
    """Raises ValueError or TypeError for what is no image (B, C, H, W) with a position, of a type that is taken."""
    _check_rank("image", image, 4, "(B, C, H, W)")
    if image.shape[2] * image.shape[3] == 0:
        raise ValueError(
            f"image: got shape {tuple(image.shape)}, which has no position, expected H and W of at least 1"
        )
    if image.dtype not in DTYPES:
        raise TypeError(f"image: got dtype {image.dtype}, expected one of {', '.join(map(str, DTYPES))}")


def check_inputs(image: Tensor, words: Tensor, mask: Tensor | None, beside: Tensor | None = None) -> None:
    """Raises ValueError or TypeError where image (B, C, H, W), words (B, T, D) and mask (B, T) don't fit together.

    Words are in the image's type, or in float32 with an image of 16 bits and a tensor `beside` them in float32.
    """
    check_image(image)
    _check_rank("words", words, 3, "(B, T, D)")
    batch = image.shape[0]
    if words.shape[0] != batch:
        raise ValueError(f"words: got batch size {words.shape[0]}, expected {batch} as in image")
    wide = isinstance(beside, Tensor) and beside.dtype == torch.float32 and image.dtype in HALVES
    _check_dtype("words", words, (image.dtype, torch.float32) if wide else (image.dtype,))
    _check_device("words", words, image.device)
    if mask is not None:
        _check_mask(mask, (batch, words.shape[1]), image.device)


def check_slots(keys: Tensor, values: Tensor, mask: Tensor | None) -> None:
    """Raises ValueError or TypeError unless keys and values are (T, C) or (B, T, C), and mask (T,) or (B, T)."""
    for name, slots in (("keys", keys), ("values", values)):
        _check_tensor(name, slots)
        if slots.dim() not in (2, 3):
            raise ValueError(f"{name}: got shape {tuple(slots.shape)}, expected (B, T, C), or (T, C) for all images")
    if mask is not None:
        _check_tensor("mask", mask)
        if mask.dim() not in (1, 2):
            raise ValueError(f"mask: got shape {tuple(mask.shape)}, expected (B, T), or (T,) for all images")


def check_read_tensors(
    image: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
) -> None:
    """Raises ValueError or TypeError where the arguments of `memory_read` don't fit together.

    image (B, C, H, W), keys and values (B, T, C), mask (B, T), gate_weight (1 or C, 2C), gate_bias (1 or C,). Keys and
    values have one type, and so have the gate's two: the image's or, where that has 16 bits, float32.
    """
    check_image(image)
    batch, channels = image.shape[:2]
    slots = (batch, keys.shape[1], channels)
    for name, tensor in (("keys", keys), ("values", values)):
        _check_shape_on_device(name, tensor, slots, image)
    _check_parameter_types([("keys", keys), ("values", values)], image)
    if gate_weight is not None and gate_bias is not None:
        _check_rank("response_gate_weight", gate_weight, 2, "(1 or C, 2C)")
        gates = gate_weight.shape[0]
        _check_gate_width("response_gate_weight", gates, channels)
        _check_shape_on_device("response_gate_weight", gate_weight, (gates, 2 * channels), image)
        _check_shape_on_device("response_gate_bias", gate_bias, (gates,), image)
        _check_parameter_types([("response_gate_weight", gate_weight), ("response_gate_bias", gate_bias)], image)
    elif gate_weight is not None or gate_bias is not None:
        missing = "response_gate_weight" if gate_weight is None else "response_gate_bias"
        raise ValueError(f"{missing}: got None, expected a Tensor: a response gate has a weight and a bias")
    if mask is not None:
        _check_mask(mask, (batch, keys.shape[1]), image.device)


def gpu_limit(image: Tensor, words: Tensor) -> str | None:
    """What about a call no kernel for GPUs takes, None where they take it: images (B, C, H, W), words (B, T, D)."""
    if image.dtype == torch.float64:
        return "float64"
    if image.shape[1] > GPU_CHANNELS:
        return f"more than {GPU_CHANNELS} image channels"
    if words.shape[1] > GPU_SLOTS:
        return f"more than {GPU_SLOTS} slots"
    return None


def _are_plain(tensors: tuple[Tensor, ...], shapes: tuple[tuple[int, ...], ...], image: Tensor) -> bool:
    """Whether they are ordinary tensors of these shapes, all of image's type and on its device.

    What nearly every call has, found out in half the time of looking for what is wrong.
    """
    dtype, device = image.dtype, image.device
    for tensor, shape in zip(tensors, shapes, strict=True):
        if type(tensor) not in _ORDINARY or tensor.dtype != dtype or tensor.device != device or tensor.shape != shape:
            return False
    return True


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}, expected a Tensor")
    # A part of a tensor that processes share: operators take it for the whole.
    if type(tensor) not in _ORDINARY and hasattr(tensor, "full_tensor"):
        raise TypeError(
            f"{name}: got a {type(tensor).__name__}, expected a plain Tensor: gather it by full_tensor(), or shard the "
            "layer as a whole (fully_shard(layer)), which gathers it when the layer is called"
        )


def _check_rank(name: str, tensor: Tensor, rank: int, shape: str) -> None:
    _check_tensor(name, tensor)
    if tensor.dim() != rank:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {rank} dimensions {shape}")


def _check_gate_width(name: str, gates: int, channels: int) -> None:
    if gates != 1 and gates != channels:
        raise ValueError(f"{name}: got {gates} rows, expected 1 (scalar gate) or {channels} (vector gate)")


def _check_shape_on_device(name: str, tensor: Tensor, shape: tuple[int, ...], image: Tensor) -> None:
    _check_tensor(name, tensor)
    if tensor.shape != shape:
        raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {shape}")
    _check_device(name, tensor, image.device)


def _check_parameter_types(named: list[tuple[str, Tensor]], image: Tensor) -> None:
    """Parameters of a call share a type: the image's, or float32 beside an image of 16 bits."""
    taken = (image.dtype, torch.float32) if image.dtype in HALVES else (image.dtype,)
    first, like = named[0]
    for name, tensor in named:
        _check_dtype(name, tensor, taken)
        if tensor.dtype != like.dtype:
            raise TypeError(f"{name}: got dtype {tensor.dtype}, expected {like.dtype} as in {first}")


def _check_dtype(name: str, tensor: Tensor, taken: tuple[torch.dtype, ...]) -> None:
    if tensor.dtype not in taken:
        others = "".join(f", or {dtype}" for dtype in taken[1:])
        raise TypeError(f"{name}: got dtype {tensor.dtype}, expected {taken[0]} as in image{others}")


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name}: got device {tensor.device}, expected {device} as in image")


def _check_mask(mask: Tensor, shape: tuple[int, int], device: torch.device) -> None:
    _check_tensor("mask", mask)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: got dtype {mask.dtype}, expected torch.bool, True where the slot holds a word")
    if mask.shape != shape:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}, expected {shape}: (B, T)")
    if mask.device != device:
        raise ValueError(f"mask: got device {mask.device}, expected {device} as in image")
