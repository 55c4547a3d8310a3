"""The data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kvmgan.data.coco import read_coco
from kvmgan.data.cub import read_cub
from kvmgan.data.folder import read_folder
from kvmgan.data.records import Record, Split
from kvmgan.errors import UserError

SourceName = Literal["birds", "cub", "coco", "folder"]

# The procedural birds lie on disk as CUB does.
_READERS = {"birds": read_cub, "cub": read_cub, "coco": read_coco, "folder": read_folder}


def load_records(name: SourceName, root: Path, split: Split) -> list[Record]:
    """Return the records of one split of the data set `name` that lies in `root`.

    For "birds", `root` is the folder that `kvmgan.data.procedural.archive.ensure_birds` returned.
    Raises `UserError` for an unknown name or split and for whatever is missing in `root`.
    """
    if name not in _READERS:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(_READERS)}")
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"the data folder {root} is missing")
    return _READERS[name](root, split)
