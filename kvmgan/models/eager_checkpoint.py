"""Checkpoints as torch.compile leaves them: a module of its own, since importing it imports all of the compiler."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kvmgan.models.copied_buffers import CopiedBuffers


@torch.compiler.disable(
    reason="torch.compile can't trace a checkpoint with contexts of its own: this part runs eagerly"
)
def checkpointed(function: Callable[..., Any], *inputs: Any, module: nn.Module, **options: Any) -> Any:
    """:func:`kvmgan.models.recomputation.recomputed`, which says what it does."""
    # Made once a call and entered once a backward pass: more often than once if the graph is retained.
    contexts = (nullcontext(), CopiedBuffers(module))
    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts, **options
    )
