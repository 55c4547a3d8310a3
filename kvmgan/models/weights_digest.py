"""What names a network's weights."""

from __future__ import annotations

import hashlib

from torch import nn


def weights_digest(module: nn.Module) -> str:
    """Hash of a module's weights and buffers, short form, independent of the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
