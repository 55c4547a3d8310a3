"""COCO 2014 captions (Lin et al., 2014) from its public archives.

::

    root/
        annotations/captions_train2014.json   (or captions_train2014.json)
        annotations/captions_val2014.json
        train2014/COCO_train2014_000000000009.jpg ...
        val2014/...                           the test split
"""

from __future__ import annotations

from pathlib import Path

from kvmgan.data.records import Record, Split, check_split
from kvmgan.errors import UserError
from kvmgan.files import read_json

_PARTS = {"train": "train2014", "test": "val2014"}


def read_coco(root: Path, split: Split) -> list[Record]:
    """Return the images that have captions, in the order of their ids; every image is a class of its own.

    "test" reads val2014. An image file that is missing is left to `TextImageDataset`, which skips and counts it.
    Raises `UserError` naming the file or folder that is missing or malformed.
    """
    check_split(split)
    root, part = Path(root), _PARTS[split]
    folder = root / part
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: it should hold the images of COCO's {part}.zip")
    path = root / "annotations" / f"captions_{part}.json"
    if not path.exists() and (root / path.name).exists():
        path = root / path.name
    content = read_json(path, "COCO's captions")
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        captions: dict[int, list[str]] = {number: [] for number in names}
        for annotation in content["annotations"]:
            caption = annotation["caption"].strip()
            if caption:
                captions[annotation["image_id"]].append(caption)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} isn't COCO's captions file ({error!r}): expected 'images' and 'annotations'") from None
    described = [number for number in sorted(names) if captions[number]]
    if not described:
        raise UserError(f"{path} holds no caption")
    return [
        Record(f"{part}/{Path(names[number]).stem}", folder / names[number], class_id, tuple(captions[number]))
        for class_id, number in enumerate(described)
    ]
