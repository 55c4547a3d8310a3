"""Reading text files with clear errors, and writing them whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kvmgan.errors import UserError
from kvmgan.files import atomic_file


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
