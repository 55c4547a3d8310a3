"""A user's own folder: caption files or a list, the split, and everything that can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmgan.data.readers.folder import read_folder
from kvmgan.errors import UserError


@pytest.fixture
def pairs_root(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    """Twenty images with a caption file each, some in a subfolder."""
    for number in range(20):
        path = make_image(tmp_path / ("inner" if number % 2 else ".") / f"picture{number:02d}.png")
        path.with_suffix(".txt").write_text(f"picture {number}\nanother line\n")
    return tmp_path


def test_pairs(pairs_root: Path) -> None:
    """Every image is in one split, with its own captions and class; a tenth is test."""
    train, test = read_folder(pairs_root, "train"), read_folder(pairs_root, "test")
    assert (len(train), len(test)) == (18, 2)
    both = sorted(train + test, key=lambda record: record.key)
    assert len({record.key for record in both}) == 20
    assert sorted(record.class_id for record in both) == list(range(20))
    assert all(f"picture {int(record.key[-2:])}" == record.captions[0] for record in both)
    assert both[0].key == "inner/picture01"
    assert read_folder(pairs_root, "train") == train


def test_list(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """captions.jsonl names the images; other images in the folder don't count."""
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "b.jpg")
    make_image(tmp_path / "unused.png")
    lines = [{"image": "a.png", "captions": ["first ", "", "second"]}, {"image": "b.jpg", "captions": ["third"]}]
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    records = sorted(read_folder(tmp_path, "train") + read_folder(tmp_path, "test"), key=lambda record: record.key)
    assert [(record.key, record.captions) for record in records] == [("a", ("first", "second")), ("b", ("third",))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "entry 2 is not valid JSON"),
        ('"a.png"', "entry 2: expected"),
        ('{"image": "b.png"}', "entry 2: expected"),
        ('{"image": "b.png", "captions": [1]}', "entry 2: expected"),
        ('{"image": "b.png", "captions": [" "]}', "b.png has no caption"),
        ('{"image": "gone.png", "captions": ["x"]}', r"gone\.png is missing"),
        ('{"image": "a.png", "captions": ["x"]}', "comes twice"),
        ('{"image": "notes.txt", "captions": ["x"]}', "is no image file"),
        ('{"image": "../b.png", "captions": ["x"]}', "inside the folder"),
    ],
)
def test_broken_list(tmp_path: Path, make_image: Callable[..., Path], line: str, message: str) -> None:
    """The message says which entry is wrong and how."""
    make_image(tmp_path / "a.png")
    make_image(tmp_path / "b.png")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "captions": ["x"]}\n' + line)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "train")


def test_missing_and_empty_captions(pairs_root: Path) -> None:
    """An image without captions is named."""
    path = pairs_root / "inner" / "picture01.txt"
    path.write_text("\n")
    with pytest.raises(UserError, match=r"picture01\.txt is empty"):
        read_folder(pairs_root, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"picture01\.txt is missing"):
        read_folder(pairs_root, "train")


def test_no_image_has_captions(pairs_root: Path) -> None:
    """Then the message counts the images and says where captions belong, one file each or one for all."""
    for path in pairs_root.rglob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds 20 images but no captions.*picture01\.txt.*captions\.jsonl"):
        read_folder(pairs_root, "train")


def test_hidden_files_are_passed_over(pairs_root: Path, make_image: Callable[..., Path]) -> None:
    """Thumbnails and the like need no captions; a hidden folder above the data doesn't hide it."""
    make_image(pairs_root / ".thumbnails" / "deep" / "picture00.png")
    make_image(pairs_root / "inner" / "._picture01.png")
    make_image(pairs_root / ".ipynb_checkpoints" / "picture00-checkpoint.png").with_suffix(".txt").write_text("x")
    for litter in ("__MACOSX", "@eaDir", "inner/@eaDir", "$RECYCLE.BIN", "#recycle", "lost+found"):
        make_image(pairs_root / litter / "picture00.png")
    make_image(pairs_root / ".ipynb_checkpoints" / "picture00-checkpoint.png").with_suffix(".txt").write_text("x")
    for litter in ("__MACOSX", "@eaDir", "inner/@eaDir", "$RECYCLE.BIN", "#recycle", "lost+found"):
        make_image(pairs_root / litter / "picture00.png")
    hidden = pairs_root.parent / ".hidden"
    pairs_root.rename(hidden)
    assert len(read_folder(hidden, "train")) + len(read_folder(hidden, "test")) == 20


def test_too_few_images(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """No folder, a file, no image and one image are told apart."""
    with pytest.raises(UserError, match="gone is missing: it should be a folder"):
        read_folder(tmp_path / "gone", "train")
    (tmp_path / "notes").write_text("")
    with pytest.raises(UserError, match="notes is a file: it should be a folder"):
        read_folder(tmp_path / "notes", "train")
    with pytest.raises(UserError, match="holds no image"):
        read_folder(tmp_path, "train")
    make_image(tmp_path / "a.png").with_suffix(".txt").write_text("x")
    with pytest.raises(UserError, match="at least two are needed"):
        read_folder(tmp_path, "train")


def test_same_name_with_two_endings(pairs_root: Path, make_image: Callable[..., Path]) -> None:
    """Two images that would share a key and a caption file are refused."""
    make_image(pairs_root / "picture00.jpg")
    with pytest.raises(UserError, match="differ in their ending only"):
        read_folder(pairs_root, "train")
