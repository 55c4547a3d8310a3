"""Text and JSON files: read with clear errors, written whole or not at all."""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvmgan.errors import MissingFileError, UndecodableError, UserError

TEMPORARY = ".tmp-"
# The longer ones first: the mark of UTF-32 in little-endian order begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_LINE_END = re.compile(r"\r\n|\r|\n")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on failure removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: libraries choose the format by it.
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh temporary folder beside ``path``; on success it takes the place of ``path``, on failure it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    replaced = temporary.with_name(f"{temporary.name}-replaced")
    try:
        yield temporary
        if path.exists():
            # A folder can't be renamed onto a full one: the old one steps aside and goes last.
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written below ``folder``, which no other process may be writing into."""
    for path in [path for path in folder.rglob(f"{TEMPORARY}*") if path.exists()]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path, purpose: str, encoding: str | None = None) -> str:
    """Return the text of `path`, decoded by `decode_text`.

    Raises `UserError` naming the file and its `purpose` when it cannot be read, `UndecodableError` when its text can't.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing: it should hold {purpose}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it should hold {purpose}") from None
    try:
        return decode_text(content, encoding)
    except ValueError as error:
        raise UndecodableError(f"{path} is no text in UTF-8 ({error}): it should hold {purpose}") from None


def decode_text(content: bytes, encoding: str | None = None) -> str:
    """Return the text by its byte order mark, else in UTF-8, else in `encoding`.

    Raises ValueError saying which byte can't be decoded, or that there are null characters: text in UTF-16 without a
    mark is UTF-8 with holes.
    """
    mark = next((mark for mark in _MARKS if content.startswith(mark)), None)
    if mark is not None:
        return content[len(mark) :].decode(_MARKS[mark])
    try:
        return _without_nulls(content.decode("utf-8"))
    except ValueError:
        if encoding is None:
            raise
        return _without_nulls(content.decode(encoding))


def _without_nulls(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"null character at position {text.index(chr(0))}")
    return text


def read_lines(path: Path, purpose: str, encoding: str | None = None) -> list[str]:
    """Return the non-blank lines of `path`, stripped, whatever system ended them. Raises as `read_text` does."""
    # Not splitlines: U+2028 and other characters at which it splits may stand in a caption.
    lines = _LINE_END.split(read_text(path, purpose, encoding))
    return [line.strip() for line in lines if line.strip()]


def read_json(path: Path, purpose: str, encoding: str | None = None) -> Any:
    """Return the parsed JSON of `path`. Raises `UserError` as `read_text` does, and when it isn't JSON."""
    try:
        return json.loads(read_text(path, purpose, encoding))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): it should hold {purpose}") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` to a temporary name beside `path` and rename it. Raises `UserError` when that fails."""
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder``, made if it is missing, for this process alone; the lock ends with the process, however it ends.

    Args:
        wait: until another process that holds it is done, and say so, instead of raising.

    Raises:
        UserError: if another process holds it, or it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(f"another process is working in {folder}: wait for its end or stop it") from None
            print(f"waiting for another process that is working in {folder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_writable(folder: Path, option: str) -> None:
    """Find out whether files can be made in ``folder``, which is made if it is missing.

    Raises:
        UserError: names ``option``, the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder} can't be written ({error.strerror}): choose another folder") from None
