"""The COCO reader: layout, order, and what can be missing or wrong."""

import json
from pathlib import Path

import pytest

from kvmgan.data.readers.coco import read_coco
from kvmgan.errors import UserError

_IMAGE = '{"id": 1, "file_name": "a.jpg"}'


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
        ('{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}', "holds no caption"),
        ('{"images": [], "annotations": []}', "holds no caption"),
        ('{"images": [{"file_name": "a.jpg"}], "annotations": []}', "has the id None, expected a whole number"),
        ('{"images": [{"id": 1}], "annotations": []}', "has the file_name None, expected text"),
        ('{"images": [{"id": true, "file_name": "a.jpg"}], "annotations": []}', "has the id True"),
        ('{"images": [], "annotations": [{"image_id": 1, "caption": null}]}', "has the caption None, expected text"),
        ('{"images": [], "annotations": [7]}', "lists of objects"),
        (f'{{"images": [{_IMAGE}, {_IMAGE}], "annotations": []}}', "lists the image 1 twice"),
        (
            '{"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []}',
            "must be a path inside",
        ),
        (
            '{"images": [{"id": 1, "file_name": "/a.jpg"}], "annotations": []}',
            "must be a path inside",
        ),
    ],
)
def test_malformed_captions(coco_root: Path, content: str, message: str) -> None:
    """A file that is cut short, of another kind or empty raises an error."""
    (coco_root / "annotations" / "captions_train2014.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_coco(coco_root, "train")


def test_captions_of_images_that_are_not_listed_are_left_out(coco_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A subset of the images with all the captions: the warning counts those that are of none."""
    path = coco_root / "annotations" / "captions_train2014.json"
    content = json.loads(path.read_text())
    content["annotations"] += [{"image_id": 999, "caption": "another"}, {"image_id": 998, "caption": "one more"}]
    path.write_text(json.dumps(content), encoding="utf-8-sig")
    assert [len(record.captions) for record in read_coco(coco_root, "train")] == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 captions of images that it doesn't list are left out"
    ]
