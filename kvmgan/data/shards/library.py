"""The `webdataset` library, where it is installed."""

from __future__ import annotations

from types import ModuleType

from kvmgan.errors import UserError


def webdataset() -> ModuleType:
    """Return the library. Raise `UserError` saying how it is installed where it is missing."""
    try:
        import webdataset
    except ImportError:
        raise UserError("shards need the package webdataset: pip install -e '.[shards]'") from None
    return webdataset
