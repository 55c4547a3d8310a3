"""Which code computed a number: the version of the package and a hash of its sources."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


@cache
def source_digest() -> str:
    """Hash of all Python sources of this package."""
    digest = hashlib.sha256()
    for source in sorted(_PACKAGE.rglob("*.py")):
        digest.update(source.relative_to(_PACKAGE).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def code_version() -> str:
    """Version and source hash, such as ``0.1.0+3f2a91c04b7e``."""
    return f"{_release()}+{source_digest()}"


def _release() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("kvmem")
    except PackageNotFoundError:
        return "0"
