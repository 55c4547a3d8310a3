"""Which layout of data lies in a folder, told from the files alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from kvmgan.data.readers.attngan import caption_file
from kvmgan.data.readers.folder import CAPTION_LIST, check_folder, find_images
from kvmgan.data.shards.index import INDEX
from kvmgan.errors import UserError

Layout = Literal["birds", "attngan", "cub", "coco", "shards", "folder"]

_NEEDS: dict[Layout, str] = {
    "birds": "settings.json and attributes.json beside images.txt and classes.txt",
    "attngan": "train/filenames.pickle and captions.pickle (or captions_DAMSM.pickle)",
    "cub": "CUB_200_2011/, or images.txt and classes.txt",
    "coco": "annotations/captions_*.json, or captions_*2014.json beside train2014/ or val2014/",
    "shards": f"{INDEX} beside .tar files, as python -m kvmgan.data shard writes them",
    "folder": f"{CAPTION_LIST}, or images with a .txt file of captions beside each",
}
# The lists that tell the splits of a data set that may lie there with AttnGAN's metadata, too.
_OWN_LISTS: dict[Layout, str] = {"cub": "t*classes.txt", "coco": "captions_*2014.json"}
_SHOWN = 5


def find_layout(root: Path) -> Layout:
    """Return the first layout, in the order of `Layout`, whose files are in `root`; nothing is read or written.

    Raises `UserError` when `root` is missing or a file, and else with what was found in it and what is needed.
    """
    root = Path(root)
    check_folder(root)
    has_lists = _has_files(root, "images.txt", "classes.txt")
    if has_lists and _has_files(root, "settings.json", "attributes.json"):
        return "birds"
    if _is_attngan(root):
        return "attngan"
    if has_lists or (root / "CUB_200_2011").is_dir():
        return "cub"
    if _is_coco(root):
        return "coco"
    if _has_files(root, INDEX):
        return "shards"
    if _is_folder(root):
        return "folder"
    needs = "; ".join(f"{layout}: {files}" for layout, files in _NEEDS.items())
    raise UserError(f"{root} is no data set that is known: it holds {_contents(root)}; expected one of {needs}")


def settle_layout(name: Layout, root: Path) -> Layout:
    """Return the layout to read `root` by, where a preset or user named one.

    "birds" is found out, since birds are drawn where no root is named. "cub" and "coco" may lie there with AttnGAN's
    metadata instead of their own lists. Raises `UserError` as `find_layout` does.
    """
    if name == "birds":
        return find_layout(root)
    own = _OWN_LISTS.get(name)
    places = (root, root / "CUB_200_2011", root / "annotations")
    if own and _is_attngan(root) and not any(any(place.glob(own)) for place in places):
        return "attngan"
    return name


def _has_files(root: Path, *names: str) -> bool:
    return all((root / name).is_file() for name in names)


def _is_attngan(root: Path) -> bool:
    """Whether its metadata is there, all or a part of it: the reader then says what is missing."""
    has_keys = any((root / folder / "filenames.pickle").is_file() for folder in ("train", "test", "val"))
    return has_keys or caption_file(root) is not None


def _is_coco(root: Path) -> bool:
    if any((root / "annotations").glob("captions_*.json")):
        return True
    has_part = any((root / part).is_dir() for part in ("train2014", "val2014"))
    return has_part and any(root.glob("captions_*2014.json"))


def _is_folder(root: Path) -> bool:
    return _has_files(root, CAPTION_LIST) or any(path.with_suffix(".txt").is_file() for path in find_images(root))


def _contents(root: Path) -> str:
    """Name the first entries of `root` that aren't hidden; folders end in a slash."""
    try:
        entries = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(root))
    except OSError as error:
        return f"what cannot be read ({error.strerror})"
    visible = [name for name in entries if not name.startswith(".")]
    if not visible:
        return "nothing"
    rest = len(visible) - _SHOWN
    return ", ".join(visible[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
