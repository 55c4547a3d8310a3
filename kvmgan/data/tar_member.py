"""A file inside an uncompressed tar archive, read in place."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple


class MemberStatus(NamedTuple):
    """Of what `os.stat` says: size in bytes, and the archive's time of change."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class TarMember:
    """The bytes of a member, with the methods of `pathlib.Path` by which image files are read."""

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Return the archive and the member's name in it."""
        return f"{self.archive}/{self.name}"

    @property
    def suffix(self) -> str:
        """The ending of the member's name, with its dot."""
        return Path(self.name).suffix

    def stat(self) -> MemberStatus:
        """Raise OSError when the archive is missing."""
        return MemberStatus(self.size, self.archive.stat().st_mtime_ns)

    def read_bytes(self) -> bytes:
        """Raise OSError when the archive is missing or ends before the member does."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError(f"{self.archive} ends in the middle of {self.name}")
        return content

    def open(self, mode: str = "rb") -> BytesIO:
        """Return the bytes as a file. Raise as `read_bytes` does, ValueError for a mode that isn't "rb"."""
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}, expected 'rb'")
        return BytesIO(self.read_bytes())
