"""Which code computed a number: the version of the package and a hash of its sources."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent


@cache
def source_digest(*parts: str) -> str:
    """Hash of the Python sources below the named folders and files of this package (all without a name)."""
    digest = hashlib.sha256()
    for part in parts or (".",):
        path = _PACKAGE / part
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
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
