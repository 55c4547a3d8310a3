"""What every reader yields: one image with its captions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kvmgan.data.tar_member import TarMember
from kvmgan.errors import UserError

Split = Literal["train", "test"]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Record:
    """One image with its captions.

    key: path of the image inside its image folder, without extension, such as ``"001.Name/Name_0001"``.
    class_id: images of one class are never used as negatives of each other.
    box: x, y, width, height of the object in pixels of the stored image, where the data set knows it.
    """

    key: str
    image_path: Path | TarMember
    class_id: int
    captions: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None


@contextmanager
def collected(problems: list[UserError] | None) -> Iterator[None]:
    """Put what is wrong with a single record into `problems`, so that the reader goes on without it; None raises it."""
    try:
        yield
    except UserError as problem:
        if problems is None:
            raise
        problems.append(problem)


def check_split(split: str) -> None:
    """Raise `UserError` unless `split` is "train" or "test"."""
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r}: choose 'train' or 'test'")
