"""A checkpoint as a folder: ``step-000123/`` appears whole or not at all, and damage is found before it is read.

``checkpoint.json`` in it holds the step, what the writer adds, and the SHA-256 of every other file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kvmgan.code_version import code_version
from kvmgan.errors import UserError
from kvmgan.files import atomic_folder, file_digest, read_json, remove_leftovers, write_text

FORMAT = 2
_HEADER = "checkpoint.json"
_NAME = re.compile(r"step-(\d+)$")


def write_checkpoint(folder: Path, step: int, write: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Write ``step-<step>`` below ``folder`` under a temporary name and rename it; returns its path.

    ``write`` fills the temporary folder that it is given and returns what is added to the header.

    Raises:
        UserError: if it can't be written, for instance because the disk is full; nothing of it stays.
    """
    path = folder / f"step-{step:06d}"
    try:
        with atomic_folder(path) as temporary:
            extra = write(temporary)
            files = {p.relative_to(temporary).as_posix(): file_digest(p) for p in temporary.rglob("*") if p.is_file()}
            header = {"format": FORMAT, "step": step, "code_version": code_version(), **extra, "sha256": files}
            write_text(temporary / _HEADER, json.dumps(header, indent=1, sort_keys=True))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"checkpoint {path} can't be written ({reason}): those before it are kept") from None
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below ``folder`` by ascending step."""
    found = [path for path in folder.glob("step-*") if _NAME.search(path.name)]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(_NAME.search(checkpoint.name)[1])


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that ``path`` is, or the newest one of the run folder that it is.

    Raises:
        UserError: if there is none.
    """
    if (path / _HEADER).is_file():
        return path
    if not path.exists():
        raise UserError(f"{path} doesn't exist: name a run folder or a checkpoint that kvmgan.train wrote")
    found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    if not found:
        raise UserError(f"{path} holds no checkpoint: name a run folder or a checkpoint that kvmgan.train wrote")
    return found[-1]


def newest_whole(path: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that ``path`` is, or the newest one of its run folder that is whole; and its header.

    Those that are passed over are named on standard output.

    Raises:
        UserError: if there is none.
    """
    newest = find_checkpoint(path)
    if newest == path:
        return path, read_header(path)
    damaged: UserError | None = None
    for folder in reversed(list_checkpoints(newest.parent)):
        try:
            return folder, read_header(folder)
        except UserError as error:
            damaged = damaged or error
            print(f"note: {folder} is damaged and passed over: its steps are computed again")
    raise damaged


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a checkpoint folder, once all of its files were found whole.

    Raises:
        UserError: if a file of it is missing or damaged, or another version wrote it.
    """
    header = read_json(folder / _HEADER, "the list of a checkpoint's files")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise UserError(f"{folder / _HEADER} has format {found}: this version reads format {FORMAT}")
    for name, digest in header["sha256"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            others = [p.name for p in list_checkpoints(folder.parent) if p != folder]
            advice = f"name another checkpoint ({', '.join(others)})" if others else "restore it from a copy"
            raise UserError(f"checkpoint {folder} is corrupt: {name} is missing or damaged; {advice}")
    return header


def prune(folder: Path, keep: int, spared: Path | None = None, every: int = 0) -> None:
    """Drop all checkpoints below ``folder`` but the ``keep`` newest, the ``spared`` one and those of ``every`` so many
    steps, 0 for none such.
    """
    for old in list_checkpoints(folder)[:-keep]:
        if old != spared and not (every and _step(old) % every == 0):
            shutil.rmtree(old, ignore_errors=True)
    remove_leftovers(folder)
