"""The COCO reader: layout, order, and what can be missing or wrong."""

import json
from pathlib import Path

import pytest

from kvmgan.data.coco import read_coco
from kvmgan.errors import UserError


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    """Two captioned images and one without a caption in each part."""
    (tmp_path / "annotations").mkdir()
    for part in ("train2014", "val2014"):
        (tmp_path / part).mkdir()
        content = {
            "images": [{"id": number, "file_name": f"COCO_{part}_{number}.jpg"} for number in (9, 4, 7)],
            "annotations": [
                {"image_id": 9, "caption": f"nine of {part}\n"},
                {"image_id": 4, "caption": "four"},
                {"image_id": 9, "caption": "nine again"},
                {"image_id": 7, "caption": "  "},
            ],
        }
        (tmp_path / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
    return tmp_path


def test_records_of_both_splits(coco_root: Path) -> None:
    """Images come by id with their captions, one class each; those without a caption are left out."""
    train = read_coco(coco_root, "train")
    assert [record.key for record in train] == ["train2014/COCO_train2014_4", "train2014/COCO_train2014_9"]
    assert [record.class_id for record in train] == [0, 1]
    assert train[1].captions == ("nine of train2014", "nine again")
    assert train[1].image_path == coco_root / "train2014" / "COCO_train2014_9.jpg"
    assert read_coco(coco_root, "test")[1].captions[0] == "nine of val2014"


def test_captions_may_lie_beside_the_images(coco_root: Path) -> None:
    """The captions file is found without its annotations/ folder, too."""
    (coco_root / "annotations" / "captions_val2014.json").rename(coco_root / "captions_val2014.json")
    assert len(read_coco(coco_root, "test")) == 2


@pytest.mark.parametrize("name", ["train2014", "annotations/captions_train2014.json"])
def test_missing_part_is_named(coco_root: Path, name: str) -> None:
    """The message names the folder or file."""
    path = coco_root / name
    path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=r"is missing") as caught:
        read_coco(coco_root, "train")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "isn't COCO's captions file"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}', "isn't COCO's captions file"),
        ('{"images": [], "annotations": []}', "holds no caption"),
    ],
)
def test_malformed_captions(coco_root: Path, content: str, message: str) -> None:
    """A file that is cut short, of another kind or empty raises an error."""
    (coco_root / "annotations" / "captions_train2014.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_coco(coco_root, "train")
