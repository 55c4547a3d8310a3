"""CUB-200-2011 (Wah et al., 2011) from its public archive, with the ten captions a bird of Reed et al. (2016).

::

    root/                             or root/CUB_200_2011/ for the first five
        images/<class>/<image>.jpg
        images.txt                    "<image number> <class>/<image>.jpg"
        image_class_labels.txt        "<image number> <class number>"
        classes.txt                   "<class number> <class>"
        bounding_boxes.txt            "<image number> <x> <y> <width> <height>"
        text/<class>/<image>.txt      one caption a line (or text_c10/, as in the caption archive)
        trainvalclasses.txt           one class a line: the training split
        testclasses.txt               one class a line: the test split, disjoint from it
"""

from __future__ import annotations

from pathlib import Path

from kvmgan.data.records import Record, Split, check_split
from kvmgan.errors import UserError
from kvmgan.files import read_lines

_SPLIT_FILES = {"train": "trainvalclasses.txt", "test": "testclasses.txt"}


def read_cub(root: Path, split: Split) -> list[Record]:
    """Return the records of one split, in the order of ``images.txt``; ``class_id`` is the class number less one.

    An image file that is missing or corrupt is left to `TextImageDataset`, which skips and counts it.
    Raises `UserError` naming any other file that is missing, malformed or without a caption.
    """
    check_split(split)
    root = Path(root)
    base = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    if not (base / "images").is_dir():
        raise UserError(f"{base / 'images'} is missing: unpack CUB-200-2011 so that this folder holds its images")
    classes = _read_table(base / "classes.txt", "'<class number> <class>' lines")
    wanted = _read_split(_beside(root, base, _SPLIT_FILES[split]), set(classes.values()), split)
    images = _read_table(base / "images.txt", "'<image number> <class>/<image>.jpg' lines")
    labels = _read_table(base / "image_class_labels.txt", "'<image number> <class number>' lines")
    boxes = _read_table(base / "bounding_boxes.txt", "'<image number> <x> <y> <width> <height>' lines")
    text = _text_folder(root, base)
    records = []
    for number, name in images.items():
        label = _lookup(labels, number, base / "image_class_labels.txt")
        if _lookup(classes, label, base / "classes.txt") not in wanted:
            continue
        key = name.rpartition(".")[0]
        box = _parse_box(_lookup(boxes, number, base / "bounding_boxes.txt"), base / "bounding_boxes.txt")
        records.append(Record(key, base / "images" / name, int(label) - 1, _read_captions(text / f"{key}.txt"), box))
    if not records:
        raise UserError(f"no image of {base / 'images.txt'} belongs to the {split} split")
    return records


def _beside(root: Path, base: Path, name: str) -> Path:
    """Return the path of `name` in the folder of the images' lists where it is there, else in `root`."""
    return base / name if (base / name).exists() else root / name


def _text_folder(root: Path, base: Path) -> Path:
    for folder in (_beside(root, base, "text"), _beside(root, base, "text_c10")):
        if folder.is_dir():
            return folder
    raise UserError(f"{root / 'text'} is missing: it should hold the captions as <class>/<image>.txt, one a line")


def _read_table(path: Path, purpose: str) -> dict[str, str]:
    """Return the rest of every line by its first word."""
    table = {}
    for line in read_lines(path, purpose):
        number, separator, rest = line.partition(" ")
        if not (separator and number.isdigit()):
            raise UserError(f"{path} holds the line {line!r}: expected {purpose}")
        table[number] = rest.strip()
    return table


def _read_split(path: Path, classes: set[str], split: Split) -> set[str]:
    wanted = set(read_lines(path, f"the classes of the {split} split, one a line"))
    unknown = sorted(wanted - classes)
    if unknown or not wanted:
        problem = f"names the class {unknown[0]!r}, which classes.txt lacks" if unknown else "names no class"
        raise UserError(f"{path} {problem}")
    return wanted


def _lookup(table: dict[str, str], key: str, path: Path) -> str:
    if key not in table:
        raise UserError(f"{path} has no line for number {key}")
    return table[key]


def _parse_box(text: str, path: Path) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(number) for number in text.split())
    except ValueError:
        raise UserError(f"{path} holds the box {text!r}: expected '<x> <y> <width> <height>'") from None
    return x, y, width, height


def _read_captions(path: Path) -> tuple[str, ...]:
    captions = tuple(read_lines(path, "the captions of an image, one a line"))
    if not captions:
        raise UserError(f"{path} is empty: it should hold the captions of an image, one a line")
    return captions
