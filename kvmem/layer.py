"""The key-value memory layer as a module."""

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from kvmem.backends import Backend, check_backend
from kvmem.checks import (
    ACTIVATIONS,
    GATE_WIDTHS,
    WRITE_GATES,
    Activation,
    ChannelDim,
    GateWidth,
    WriteGate,
    check_channel_dim,
    check_choice,
    check_inputs,
    check_layout,
)
from kvmem.children import NAMES, kv_memory_by_children, put_weights_together, why_called
from kvmem.functional import autocast_dtype, cast, kv_memory
from kvmem.layouts import as_image, like_features, like_positions


class KVMemoryLayer(nn.Module):
    """Refines image features (B, C, H, W) by a key-value memory written from word features (B, T, D).

    1. Memory writing: with r the mean of the image features over the positions, every word w_t writes the slot
       m_t = g_t φ(W_w w_t + b_w) + (1 - g_t) φ(W_r r + b_r) under the gate g_t = σ(A w_t + B r).
    2. Key addressing: α_{t,n} = softmax over the slots of k_t · h_n, with keys k_t = φ(K m_t + b_k).
    3. Value reading: o_n = Σ_t α_{t,n} v_t, with values v_t = φ(V m_t + b_v).
    4. Gated response: (1 - γ_n) h_n + γ_n o_n under the gate γ_n = σ(W_g [h_n, o_n] + b_g).

    Arguments: image_channels C; word_channels D; memory_channels M, 2C where None; write_gate "sigmoid" or "linear" (no
    σ on g); write_gate_width and response_gate_width, "scalar" (one gate a slot, a position) or "vector" (one a
    channel); activation φ, "relu" or "identity"; detach_mean: no gradient through r; channel_dim 1, or -1 for images
    with channels last, such as tokens (B, N, C); backend: a name of `kvmem.backends()`, None picks.

    A linear map may be reparametrised, replaced by another module or hooked: where its weight can't be read instead,
    all of them are called as modules, in the eager form.

    Parameters: gate_word (A), gate_image (B), write_word, write_image, key, value, response_gate, each an `nn.Linear`.

    Raises ValueError for a channel count below 1, an unknown option value or backend name, and RuntimeError for a
    backend that can't run in this process, or, when the layer is called, that can't call modules. Source: the KVM-GAN
    draft, section 3.2, as DM-GAN (CVPR 2019) settled it.
    """

    # Said for type checkers, which may each infer another type from the assignments below.
    image_channels: int
    word_channels: int
    memory_channels: int
    detach_mean: bool
    gate_word: nn.Linear
    gate_image: nn.Linear
    write_word: nn.Linear
    write_image: nn.Linear
    key: nn.Linear
    value: nn.Linear
    response_gate: nn.Linear

    def __init__(
        self,
        image_channels: int,
        word_channels: int,
        memory_channels: int | None = None,
        *,
        write_gate: WriteGate = "sigmoid",
        write_gate_width: GateWidth = "scalar",
        response_gate_width: GateWidth = "scalar",
        activation: Activation = "relu",
        detach_mean: bool = False,
        channel_dim: ChannelDim = 1,
        backend: Backend | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        memory_channels = 2 * image_channels if memory_channels is None else memory_channels
        for name in ("image_channels", "word_channels", "memory_channels"):
            if locals()[name] < 1:
                raise ValueError(f"{name}: got {locals()[name]}, expected at least 1")
        check_choice("write_gate", write_gate, WRITE_GATES)
        check_choice("write_gate_width", write_gate_width, GATE_WIDTHS)
        check_choice("response_gate_width", response_gate_width, GATE_WIDTHS)
        check_choice("activation", activation, ACTIVATIONS)
        check_channel_dim(channel_dim)
        if backend is not None:
            check_backend(backend)
        self.image_channels, self.word_channels, self.memory_channels = image_channels, word_channels, memory_channels
        self.write_gate, self.write_gate_width = write_gate, write_gate_width
        self.response_gate_width = response_gate_width
        self.activation, self.detach_mean, self.backend = activation, detach_mean, backend
        self.channel_dim = channel_dim

        write_gates = memory_channels if write_gate_width == "vector" else 1
        response_gates = image_channels if response_gate_width == "vector" else 1
        linear = partial(nn.Linear, device=device, dtype=dtype)
        self.gate_word = linear(word_channels, write_gates, bias=False)
        self.gate_image = linear(image_channels, write_gates, bias=False)
        self.write_word = linear(word_channels, memory_channels)
        self.write_image = linear(image_channels, memory_channels)
        self.key = linear(memory_channels, image_channels)
        self.value = linear(memory_channels, image_channels)
        self.response_gate = linear(2 * image_channels, response_gates)

    def reset_parameters(self) -> None:
        """Draws all parameters anew, as they are when the layer is made: after `to_empty`, for a layer made on meta."""
        for name in NAMES:
            getattr(self, name).reset_parameters()

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, image: Tensor, words: Tensor, mask: Tensor | None = None, return_attention: Literal[False] = False
        ) -> Tensor: ...

        @overload
        def __call__(
            self, image: Tensor, words: Tensor, mask: Tensor | None = None, *, return_attention: Literal[True]
        ) -> tuple[Tensor, Tensor]: ...

        @overload
        def __call__(
            self, image: Tensor, words: Tensor, mask: Tensor | None = None, *, return_attention: bool
        ) -> Tensor | tuple[Tensor, Tensor]: ...

        def __call__(self, *inputs: Any, **options: Any) -> Any: ...

    def forward(
        self, image: Tensor, words: Tensor, mask: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """image (B, C, H, W), words (B, T, D), mask (B, T) bool, True where the slot holds a word (None: all do).

        Any other number of spatial dimensions does as well; with channel_dim -1 the channels come last. Returns the
        refined features, with image's shape, dtype and memory format; with return_attention also the attention
        (B, T, H, W). Raises as `kvmem.kv_memory` does.
        """
        children = self._modules
        self._check_channels("image", image, self.channel_dim, self.image_channels)
        self._check_channels("words", words, 2, self.word_channels)
        reason = why_called(children)
        if reason is not None:
            return self._by_children(reason, image, words, mask, return_attention)
        put_weights_together(children)
        gate_word, gate_image, write_word, write_image, key, value, response_gate = (children[name] for name in NAMES)
        return kv_memory(
            image,
            words,
            mask,
            gate_word=gate_word.weight,
            gate_image=gate_image.weight,
            write_word_weight=write_word.weight,
            write_word_bias=write_word.bias,
            write_image_weight=write_image.weight,
            write_image_bias=write_image.bias,
            key_weight=key.weight,
            key_bias=key.bias,
            value_weight=value.weight,
            value_bias=value.bias,
            response_gate_weight=response_gate.weight,
            response_gate_bias=response_gate.bias,
            write_gate=self.write_gate,
            activation=self.activation,
            detach_mean=self.detach_mean,
            return_attention=return_attention,
            channel_dim=self.channel_dim,
            backend=self.backend,
        )

    def _check_channels(self, name: str, tensor: Tensor, dim: int, made_for: int) -> None:
        """Raises ValueError naming the input and not a weight; ranks and types are `kv_memory`'s to check."""
        if isinstance(tensor, Tensor) and tensor.dim() >= 3 and tensor.shape[dim] != made_for:
            raise ValueError(f"{name}: got {tensor.shape[dim]} channels, the layer was made for {made_for}")

    def _by_children(
        self, reason: str, image: Tensor, words: Tensor, mask: Tensor | None, return_attention: bool
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The eager form with every linear map called as a module."""
        if self.backend not in (None, "eager"):
            raise RuntimeError(
                f"backend {self.backend!r} can't run this layer: {reason}; backend=None calls its modules"
            )
        check_layout(image, self.channel_dim)
        dtype = autocast_dtype(image.device.type)
        if dtype is not None:
            image, words = cast((image, words), dtype)
        features, image = image, as_image(image, self.channel_dim)
        check_inputs(image, words, mask)
        options = (self.write_gate == "linear", self.activation == "relu", self.detach_mean)
        out, attention = kv_memory_by_children(image, words, mask, self._modules, options)
        out = like_features(out, features, self.channel_dim)
        return (out, like_positions(attention, features, self.channel_dim)) if return_attention else out

    def extra_repr(self) -> str:
        return (
            f"{self.image_channels}, {self.word_channels}, {self.memory_channels}, write_gate={self.write_gate!r}, "
            f"write_gate_width={self.write_gate_width!r}, response_gate_width={self.response_gate_width!r}, "
            f"activation={self.activation!r}, detach_mean={self.detach_mean}, channel_dim={self.channel_dim}, "
            f"backend={self.backend!r}"
        )
