"""Decoded images in files that are mapped into memory: decoded once, read at the speed of the disk's cache.

::

    folder/
        shard-00000.bin     the pixels of up to 256 images, one after the other, as `decode` returns them
        shard-00000.json    for each its key, size, time of change, box, height and width, or why it can't be decoded
        vocabulary.json     the words of all captions, and a hash of these captions
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvmgan.data.pixels import DECODING_ERRORS, DECODING_VERSION, decode, reason
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.files import atomic_file, read_json, write_text

_IMAGES_A_SHARD = 256
_VOCABULARY = "vocabulary.json"


def prepared_folder(cache_dir: Path, root: Path, side: int) -> Path:
    """Return where the images of the data in `root`, kept with a shorter side of `side` pixels, are prepared."""
    place = hashlib.sha256(f"{DECODING_VERSION} {root.resolve()}".encode()).hexdigest()[:10]
    return cache_dir / "prepared" / f"{root.resolve().name}-{side}-{place}"


def prepare_images(folder: Path, records: Sequence[Record], side: int, progress: Callable[[int], None]) -> None:
    """Decode the images of `records` into `folder`; shards that hold them as they are now stay as they are.

    side: the shorter side that images are resized to [pixels].
    progress: called after every shard with the images that are in it.
    Raises `UserError` when the folder can't be written.
    """
    for number, start in enumerate(range(0, len(records), _IMAGES_A_SHARD)):
        part = records[start : start + _IMAGES_A_SHARD]
        path = folder / f"shard-{number:05d}.bin"
        if not _is_whole(path, part):
            _write_shard(path, part, side)
        progress(len(part))


def keep_vocabulary(folder: Path, records: Sequence[Record]) -> None:
    """Write the words of the records' captions into `folder`. Raises `UserError` when it can't be written."""
    try:
        words = Vocabulary.build(caption for record in records for caption in record.captions).words[1:]
    except UserError:
        # No caption holds a word: whoever trains on them is told.
        return
    write_text(folder / _VOCABULARY, json.dumps({"captions": _captions_digest(records), "words": words}))


class PreparedImages:
    """The images of a folder that `prepare_images` filled; those that have changed since aren't found in it."""

    def __init__(self, folder: Path) -> None:
        """Read which images there are. Raises `UserError` when a list of them is damaged."""
        self._folder = folder
        self._entries: dict[str, dict[str, Any]] = {}
        self._maps: dict[Path, NDArray[np.uint8]] = {}
        for path in sorted(folder.glob("shard-*.bin")):
            offset = 0
            for entry in _read_shard(path) or ():
                self._entries[entry["key"]] = entry | {"file": path, "offset": offset}
                offset += _bytes_of(entry)

    def __contains__(self, record: Record) -> bool:
        """Return whether the image was prepared as it is now."""
        entry = self._entries.get(record.key)
        return entry is not None and _identity(record) == {name: entry[name] for name in _IDENTITY}

    def reason(self, record: Record) -> str | None:
        """Return why a prepared image can't be decoded, None if it can be."""
        return self._entries[record.key].get("reason")

    def pixels(self, record: Record) -> NDArray[np.uint8]:
        """Return the pixels (H, W, 3) of a prepared image, a view of the mapped file."""
        entry = self._entries[record.key]
        path = entry["file"]
        if path not in self._maps:
            self._maps[path] = np.memmap(path, dtype=np.uint8, mode="r")
        start, shape = entry["offset"], (entry["height"], entry["width"], 3)
        return self._maps[path][start : start + _bytes_of(entry)].reshape(shape)

    def vocabulary(self, records: Sequence[Record]) -> Vocabulary | None:
        """Return the words of the captions of `records`, if they were kept of just these; None else."""
        path = self._folder / _VOCABULARY
        if not path.is_file():
            return None
        content = read_json(path, "the words of the captions")
        if not isinstance(content, dict) or content.get("captions") != _captions_digest(records):
            return None
        return Vocabulary.load(path)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes map the files themselves: a map would be copied whole."""
        return self.__dict__ | {"_maps": {}}


def _captions_digest(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(repr(record.captions).encode())
    return digest.hexdigest()


_IDENTITY = ("key", "bytes", "changed", "box")


def _identity(record: Record) -> dict[str, Any]:
    """What an image was prepared from; a file that is missing has neither size nor time."""
    try:
        status = record.image_path.stat()
    except OSError:
        status = None
    return {
        "key": record.key,
        "bytes": status.st_size if status else None,
        "changed": status.st_mtime_ns if status else None,
        "box": list(record.box) if record.box is not None else None,
    }


def _bytes_of(entry: dict[str, Any]) -> int:
    return 3 * entry["height"] * entry["width"]


def _read_shard(path: Path) -> list[dict[str, Any]] | None:
    """The images of a shard; None where its list is missing or its pixels aren't as many as the list says."""
    described = path.with_suffix(".json")
    if not described.is_file() or not path.is_file():
        return None
    entries = read_json(described, "the images of a shard")
    return entries if path.stat().st_size == sum(map(_bytes_of, entries)) else None


def _is_whole(path: Path, records: Sequence[Record]) -> bool:
    """Whether a shard holds just these records, as their files are now."""
    identities = [{name: entry[name] for name in _IDENTITY} for entry in _read_shard(path) or ()]
    return identities == [_identity(record) for record in records]


def _write_shard(path: Path, records: Sequence[Record], side: int) -> None:
    entries = []
    try:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            for record, result in zip(records, _decoded(records, side), strict=True):
                if isinstance(result, str):
                    entries.append(_identity(record) | {"height": 0, "width": 0, "reason": result})
                    continue
                entries.append(_identity(record) | {"height": result.shape[0], "width": result.shape[1]})
                file.write(result.tobytes())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    # Last: a shard without its list doesn't count.
    write_text(path.with_suffix(".json"), json.dumps(entries))


def _decoded(records: Sequence[Record], side: int) -> Iterator[NDArray[np.uint8] | str]:
    """Yield the pixels of each record, or why they can't be read."""

    def read(record: Record) -> NDArray[np.uint8] | str:
        try:
            return decode(record.image_path, record.box, side)
        except DECODING_ERRORS as error:
            return reason(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(read, records)
