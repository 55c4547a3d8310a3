"""What a shard says of a picture, as JSON beside it."""

from __future__ import annotations

import json

from kvmgan.data.records import Record
from kvmgan.errors import UserError


def describe(record: Record) -> bytes:
    """Return key, class, captions and box of a record."""
    content = {"key": record.key, "class_id": record.class_id, "captions": record.captions, "box": record.box}
    return json.dumps(content).encode()


def parse_description(content: bytes, where: str) -> tuple[str, int, tuple[str, ...], tuple[float, ...] | None]:
    """Return key, class, captions and box. Raise `UserError` naming `where` for anything else."""
    try:
        found = json.loads(content)
        key, class_id, captions, box = (found[name] for name in ("key", "class_id", "captions", "box"))
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{where} is no description of a picture: expected key, class_id, captions and box") from None
    strings = isinstance(key, str) and isinstance(captions, list) and all(isinstance(c, str) for c in captions)
    numbers = box is None or (isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box))
    if not (strings and captions and numbers and isinstance(class_id, int)):
        raise UserError(f"{where} is no description of a picture: {found}")
    return key, class_id, tuple(captions), None if box is None else tuple(box)
