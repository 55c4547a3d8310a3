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

from kvmgan.data.records import Record, Split, check_split, collected
from kvmgan.errors import UserError
from kvmgan.files import read_lines

_SPLIT_FILES = {"train": "trainvalclasses.txt", "test": "testclasses.txt"}
_BOXES = "bounding_boxes.txt"
_SPLIT_LINES = "the classes of a split, one a line"


def read_cub(
    root: Path, split: Split, encoding: str | None = None, problems: list[UserError] | None = None
) -> list[Record]:
    """Return the records of one split, in the order of ``images.txt``; ``class_id`` is the class number less one.

    An image file that is missing or corrupt is left to `TextImageDataset`, which skips and counts it. ``encoding``: of
    captions that are no UTF-8. Raises `UserError` naming any other file that is missing, malformed or without a
    caption, a class that both splits name, and an image or class that is listed twice; ``problems``, where it is given,
    takes what is wrong with single images instead.
    """
    check_split(split)
    root = Path(root)
    base = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    if not (base / "images").is_dir():
        raise UserError(f"{base / 'images'} is missing: unpack CUB-200-2011 so that this folder holds its images")
    classes = _read_names(base / "classes.txt", "'<class number> <class>' lines")
    wanted = _read_split(root, base, split, set(classes.values()))
    images = read_image_names(base)
    labels = _read_table(base / "image_class_labels.txt", "'<image number> <class number>' lines")
    boxes = read_box_lines(base)
    text = _text_folder(root, base)
    records = []
    for number, name in images.items():
        with collected(problems):
            label = _lookup(labels, number, base / "image_class_labels.txt")
            if _lookup(classes, label, base / "classes.txt") not in wanted:
                continue
            key = name.rpartition(".")[0]
            captions = read_captions(text / f"{key}.txt", encoding)
            records.append(Record(key, base / "images" / name, int(label) - 1, captions, find_box(boxes, number, base)))
    if not records:
        raise UserError(f"no image of {base / 'images.txt'} belongs to the {split} split")
    return records


def read_image_names(base: Path) -> dict[str, str]:
    """Return ``<class>/<image>.jpg`` by image number, from ``images.txt``. Raises `UserError` as `read_cub` does."""
    return _read_names(base / "images.txt", "'<image number> <class>/<image>.jpg' lines")


def read_box_lines(base: Path) -> dict[str, str]:
    """Return the lines of ``bounding_boxes.txt`` by image number. Raises `UserError` as `read_cub` does."""
    return _read_table(base / _BOXES, "'<image number> <x> <y> <width> <height>' lines")


def find_box(lines: dict[str, str], number: str, base: Path) -> tuple[float, float, float, float]:
    """Return x, y, width, height of an image from what `read_box_lines` read. Raises `UserError` as `read_cub` does."""
    text = _lookup(lines, number, base / _BOXES)
    try:
        x, y, width, height = (float(part) for part in text.split())
    except ValueError:
        raise UserError(f"{base / _BOXES} holds the box {text!r}: expected '<x> <y> <width> <height>'") from None
    return x, y, width, height


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
        if number in table:
            raise UserError(f"{path} has two lines for number {number}: {table[number]!r} and {rest.strip()!r}")
        table[number] = rest.strip()
    return table


def _read_names(path: Path, purpose: str) -> dict[str, str]:
    """Return the name of every number; no two numbers have the same."""
    table = _read_table(path, purpose)
    numbers: dict[str, str] = {}
    for number, name in table.items():
        if numbers.setdefault(name, number) != number:
            raise UserError(f"{path} names {name!r} twice, by the numbers {numbers[name]} and {number}")
    return table


def _read_split(root: Path, base: Path, split: Split, classes: set[str]) -> set[str]:
    """Return the classes of a split; those of the other one, where it is there, are others."""
    paths = {name: _beside(root, base, file) for name, file in _SPLIT_FILES.items()}
    named = {
        name: set(read_lines(path, _SPLIT_LINES)) for name, path in paths.items() if name == split or path.exists()
    }
    wanted, path = named[split], paths[split]
    unknown = sorted(wanted - classes)
    if unknown or not wanted:
        problem = f"names the class {unknown[0]!r}, which classes.txt lacks" if unknown else "names no class"
        raise UserError(f"{path} {problem}")
    shared = sorted(set.intersection(*named.values())) if len(named) == 2 else []
    if shared:
        names = " and ".join(map(str, paths.values()))
        raise UserError(f"{names} both name the class {shared[0]!r}: its images would be trained on and judged")
    return wanted


def _lookup(table: dict[str, str], key: str, path: Path) -> str:
    if key not in table:
        raise UserError(f"{path} has no line for number {key}")
    return table[key]


def read_captions(path: Path, encoding: str | None) -> tuple[str, ...]:
    """Return the captions of an image, one a line. Raises `UserError` when there is none."""
    captions = tuple(read_lines(path, "the captions of an image, one a line", encoding))
    if not captions:
        raise UserError(f"{path} is empty: it should hold the captions of an image, one a line")
    return captions
