"""Unpacking the archives that data sets are published as; nothing of them is written outside the folder."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from kvmgan.errors import MissingFileError, UserError
from kvmgan.files import TEMPORARY

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack a tar file, of any compression, or a zip file into ``folder``; returns what lies there now, sorted.

    All of it appears or nothing: every path is checked before the first file is written.

    Raises:
        UserError: the file is missing, damaged or no archive; a path of it leaves the folder, a link or a device is
            among them; the folder has one of its names already; or the disk is too small.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}): choose another folder") from None
    try:
        with _opened(archive) as members:
            members.check(temporary)
            members.extract(temporary)
        return _moved(temporary, folder, archive)
    except FileNotFoundError:
        raise MissingFileError(f"{archive} is missing: it should be an archive") from None
    except _DAMAGED as error:
        raise UserError(f"{archive} can't be unpacked, it is damaged or encrypted ({error})") from None
    except OSError as error:
        raise UserError(f"{archive} can't be unpacked into {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Members:
    """What an archive holds."""

    def __init__(self, archive: Path, file: tarfile.TarFile | zipfile.ZipFile):
        self.archive, self.file = archive, file

    def check(self, folder: Path) -> None:
        """Raise ``UserError`` for a path that leaves the folder, for what is no file or folder, or a small disk."""
        needed = 0
        for name, size, plain in self._described():
            parts = PurePosixPath(name).parts
            windows = PureWindowsPath(name)
            if ".." in (*parts, *windows.parts) or windows.drive or windows.root or PurePosixPath(name).is_absolute():
                raise UserError(f"{self.archive}: {name} leaves the folder: nothing is unpacked")
            if not plain:
                raise UserError(f"{self.archive}: {name} is a link or a device: nothing is unpacked")
            needed += size
        free = shutil.disk_usage(folder).free
        if needed > free:
            gib = 2**30
            raise UserError(
                f"{self.archive} needs {needed / gib:.1f} GiB unpacked, {folder.parent} has {free / gib:.1f}"
            )

    def extract(self, folder: Path) -> None:
        """Write everything into ``folder``."""
        if isinstance(self.file, zipfile.ZipFile):
            self.file.extractall(folder)
        else:
            # Python 3.10 and 3.11 have the filter from a patch release on; what it refuses was refused before.
            self.file.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))

    def _described(self) -> Iterator[tuple[str, int, bool]]:
        """Name and size [bytes] of every member, and whether it is a plain file or folder."""
        if isinstance(self.file, zipfile.ZipFile):
            for info in self.file.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                yield info.filename, info.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR)
        else:
            for info in self.file:
                yield info.name, info.size, info.isreg() or info.isdir()


@contextmanager
def _opened(archive: Path) -> Iterator[_Members]:
    if archive.is_dir():
        raise UserError(f"{archive} is a folder: it should be an archive")
    # A tar file may hold a zip file whole: tar is tried first.
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            yield _Members(archive, file)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield _Members(archive, file)
    else:
        raise UserError(f"{archive} is no tar or zip archive, or cut short")


def _moved(source: Path, folder: Path, archive: Path) -> list[Path]:
    """Move what lies in ``source`` into ``folder``, unless one of the names is taken there."""
    entries = sorted(source.iterdir())
    taken = [entry.name for entry in entries if (folder / entry.name).exists()]
    if taken:
        raise UserError(f"{folder / taken[0]} is there already: {archive} isn't unpacked over it")
    return [entry.rename(folder / entry.name) for entry in entries]
