"""Text, JSON and tensor files: read with clear errors, written whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from kvmgan.errors import UserError

TEMPORARY = ".tmp-"


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


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device as one safetensors file, atomically."""
    # A clone each: safetensors refuses tensors that share storage, as an LSTM's flattened weights do.
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        safetensors.torch.save_file(whole, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: restore it or name another checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is corrupt ({error}): restore it or name another checkpoint") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_text(path: Path, purpose: str) -> str:
    """Return the text of `path` (UTF-8, undecodable bytes become U+FFFD).

    Raises `UserError` naming the file and its `purpose` when it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it should hold {purpose}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it should hold {purpose}") from None


def read_lines(path: Path, purpose: str) -> list[str]:
    """Return the non-blank lines of `path`, stripped. Raises `UserError` as `read_text` does."""
    return [line.strip() for line in read_text(path, purpose).splitlines() if line.strip()]


def read_json(path: Path, purpose: str) -> Any:
    """Return the parsed JSON of `path`. Raises `UserError` when it is missing or not JSON."""
    try:
        return json.loads(read_text(path, purpose))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): it should hold {purpose}") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` to a temporary name beside `path` and rename it. Raises `UserError` when that fails."""
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder``, made if it is missing, for this process alone; the lock ends with the process, however it ends.

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
            raise UserError(f"another process is working in {folder}: wait for its end or stop it") from None
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
