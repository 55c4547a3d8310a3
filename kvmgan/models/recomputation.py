"""Activations that backward computes again instead of forward keeping them: larger batches for more time."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kvmgan.models.copied_buffers import CopiedBuffers


@torch.compiler.disable(
    reason="torch.compile can't trace a checkpoint with contexts of its own: this part runs eagerly"
)
def recomputed(function: Callable[..., Any], *inputs: Any, module: nn.Module, **options: Any) -> Any:
    """``function(*inputs, **options)``, of which only inputs and outputs are kept for backward.

    Values and gradients are the same, bit for bit where the arithmetic is deterministic. ``function`` must draw no
    random numbers, and get whatever changes between forward and backward among its inputs: a weight with spectral
    normalisation, for instance, which moves at every read.

    Args:
        function: what to run.
        inputs, options: what it takes.
        module: whose buffers ``function`` updates, such as running statistics: backward doesn't update them again. It
            must be in the same mode, training or evaluation, until backward is done.
    """
    # Made once a call and entered once a backward pass: more often than once if the graph is retained.
    contexts = (nullcontext(), CopiedBuffers(module))
    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts, **options
    )


def run_block(block: nn.Module, features: Tensor, *, recompute: bool, **options: bool) -> Tensor:
    """``block(features, **options)``, its activations kept for backward or computed again."""
    if recompute:
        return recomputed(block, features, module=block, **options)
    return block(features, **options)
