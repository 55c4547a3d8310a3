"""Activations that backward computes again instead of forward keeping them: larger batches for more time."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def recomputed(function: Callable[..., Any], *inputs: Any, module: nn.Module, **options: Any) -> Any:
    """``function(*inputs, **options)``, of which only inputs and outputs are kept for backward.

    Values and gradients are the same, bit for bit where the arithmetic is deterministic. ``function`` must draw no
    random numbers, and get whatever changes between forward and backward among its inputs: a weight with spectral
    normalisation, for instance, which moves at every read. torch.compile leaves it as it is.

    Args:
        function: what to run.
        inputs, options: what it takes.
        module: whose buffers ``function`` updates, such as running statistics: backward doesn't update them again. It
            must be in the same mode, training or evaluation, until backward is done.
    """
    # Imported here: with it comes all of torch's compiler, two seconds that drawing a picture needn't wait for.
    from kvmgan.models.eager_checkpoint import checkpointed

    return checkpointed(function, *inputs, module=module, **options)


def run_block(block: nn.Module, features: Tensor, *, recompute: bool, **options: bool) -> Tensor:
    """``block(features, **options)``, its activations kept for backward or computed again."""
    if recompute:
        return recomputed(block, features, module=block, **options)
    return block(features, **options)
