"""The layer's linear maps as its caller has left them: plain, reparametrised, hooked, or replaced by other modules."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kvmem.reference import equations

NAMES = ("gate_word", "gate_image", "write_word", "write_image", "key", "value", "response_gate")
# Hooks that put a weight together before a module runs, and look at nothing that it is called with.
_OF_WEIGHTS = (SpectralNorm, WeightNorm, BasePruningMethod)


def why_called(children: dict[str, nn.Module]) -> str | None:
    """Why the maps must be called as modules instead of their weights being read; None where reading does the same."""
    for name in NAMES:
        child = children[name]
        kind = type(child)
        if kind is not nn.Linear and (not isinstance(child, nn.Linear) or kind.forward is not nn.Linear.forward):
            return f"{name} is {kind.__module__}.{kind.__name__} instead of torch.nn.Linear"
        if "forward" in child.__dict__:
            return f"{name} has a forward of its own"
        if child._forward_hooks or child._backward_hooks or child._backward_pre_hooks:
            return f"{name} has hooks"
        hooks = child._forward_pre_hooks
        if hooks and not all(isinstance(hook, _OF_WEIGHTS) for hook in hooks.values()):
            return f"{name} has a hook that runs before it"
    return None


def put_weights_together(children: dict[str, nn.Module]) -> None:
    """What spectral_norm, weight_norm and prune of torch.nn.utils do whenever a module is called."""
    for name in NAMES:
        child = children[name]
        if child._forward_pre_hooks:
            for hook in child._forward_pre_hooks.values():
                hook(child, ())


def kv_memory_by_children(
    image: Tensor,
    words: Tensor,
    mask: Tensor | None,
    children: dict[str, nn.Module],
    options: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor]:
    """The equations, each map a call of its module: response (B, C, H, W), attention (B, T, H, W)."""
    *maps, last = (children[name] for name in NAMES)
    out, attention = equations(image, words, mask, *maps, partial(_response_gate, last), *options)
    # Autocast takes a softmax in float32.
    return out.to(image.dtype), attention.to(image.dtype)


def _response_gate(module: Callable[[Tensor], Tensor], h: Tensor, o: Tensor) -> Tensor:
    """W_g [h, o] + b_g of features (B, C, N); the module has features last."""
    return module(torch.cat((h, o), 1).transpose(1, 2)).transpose(1, 2)
