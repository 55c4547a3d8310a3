"""Pickles as Python 2 writes them in protocol 2: its text is bytes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence


def python2_pickle(content: object) -> bytes:
    """Of lists, dictionaries, whole numbers and text, which becomes Latin-1."""
    return b"\x80\x02" + _opcodes(content) + b"."


def _opcodes(content: object) -> bytes:
    if isinstance(content, str):
        text = content.encode("latin1")
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text
    if isinstance(content, int):
        return b"J" + struct.pack("<i", content)
    if isinstance(content, Mapping):
        return b"}(" + b"".join(_opcodes(part) for item in content.items() for part in item) + b"u"
    if isinstance(content, Sequence):
        return b"](" + b"".join(map(_opcodes, content)) + b"e"
    raise TypeError(f"{type(content)} can't be written")
