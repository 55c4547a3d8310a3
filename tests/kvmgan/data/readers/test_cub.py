"""The CUB reader: layout, splits, and every file that can be missing or wrong."""

import shutil
from pathlib import Path

import pytest

from kvmgan.data.readers.cub import read_cub
from kvmgan.errors import UndecodableError, UserError


@pytest.fixture
def cub_root(tmp_path: Path) -> Path:
    """Three classes, two images of the first; images are empty files, since the reader doesn't open them."""
    lists = {
        "images.txt": "1 001.Auk/Auk_1.jpg\n2 002.Owl/Owl_1.jpg\n3 001.Auk/Auk_2.jpg\n4 003.Jay/Jay_1.jpg\n",
        "image_class_labels.txt": "1 1\n2 2\n3 1\n4 3\n",
        "classes.txt": "1 001.Auk\n2 002.Owl\n3 003.Jay\n",
        "bounding_boxes.txt": "1 1.0 2.0 30.0 40.0\n2 0 0 9 9\n3 5.5 6.5 7.5 8.5\n4 0 0 1 1\n",
        "trainvalclasses.txt": "001.Auk\n003.Jay\n",
        "testclasses.txt": "002.Owl\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
    for key in ("001.Auk/Auk_1", "002.Owl/Owl_1", "001.Auk/Auk_2", "003.Jay/Jay_1"):
        for folder, suffix, content in (("images", ".jpg", ""), ("text", ".txt", f"bird {key}\n\nsecond line \n")):
            path = tmp_path / folder / f"{key}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    return tmp_path


def test_records_of_both_splits(cub_root: Path) -> None:
    """Order, keys, paths, classes, boxes and captions come from the lists; the splits share no class."""
    train, test = read_cub(cub_root, "train"), read_cub(cub_root, "test")
    assert [record.key for record in train] == ["001.Auk/Auk_1", "001.Auk/Auk_2", "003.Jay/Jay_1"]
    assert [record.class_id for record in train] == [0, 0, 2]
    assert train[1].box == (5.5, 6.5, 7.5, 8.5)
    assert train[1].image_path == cub_root / "images" / "001.Auk" / "Auk_2.jpg"
    assert train[1].captions == ("bird 001.Auk/Auk_2", "second line")
    assert [record.key for record in test] == ["002.Owl/Owl_1"]
    assert test[0].class_id == 1


def test_archive_folder_and_caption_archive_names(cub_root: Path, tmp_path: Path) -> None:
    """The lists may lie in CUB_200_2011/ as unpacked, the captions in text_c10/."""
    expected = [record.captions for record in read_cub(cub_root, "train")]
    inner = tmp_path / "CUB_200_2011"
    inner.mkdir()
    for name in ("images", "images.txt", "image_class_labels.txt", "classes.txt", "bounding_boxes.txt"):
        (cub_root / name).rename(inner / name)
    (cub_root / "text").rename(cub_root / "text_c10")
    records = read_cub(cub_root, "train")
    assert [record.captions for record in records] == expected
    assert records[0].image_path == inner / "images" / "001.Auk" / "Auk_1.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "images",
        "images.txt",
        "image_class_labels.txt",
        "classes.txt",
        "bounding_boxes.txt",
        "text",
        "text/001.Auk/Auk_2.txt",
        "trainvalclasses.txt",
    ],
)
def test_missing_file_is_named(cub_root: Path, name: str) -> None:
    """Whatever is missing, the message names it and says what belongs there."""
    path = cub_root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError) as caught:
        read_cub(cub_root, "train")
    assert f"{path} is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text/001.Auk/Auk_1.txt", " \n", "is empty"),
        ("image_class_labels.txt", "1 1\n2 2\n4 3\n", "no line for number 3"),
        ("bounding_boxes.txt", "1 1 2 3\n2 0 0 9 9\n3 0 0 9 9\n4 0 0 9 9\n", "holds the box '1 2 3'"),
        ("images.txt", "001.Auk/Auk_1.jpg\n", "holds the line"),
        ("trainvalclasses.txt", "009.Emu\n", "names the class '009.Emu'"),
        ("trainvalclasses.txt", "", "names no class"),
        ("trainvalclasses.txt", "001.Auk\n002.Owl\n", "both name the class '002.Owl'"),
        ("images.txt", "1 001.Auk/Auk_1.jpg\n1 001.Auk/Auk_2.jpg\n", "two lines for number 1"),
        (
            "images.txt",
            "1 001.Auk/Auk_1.jpg\n3 001.Auk/Auk_1.jpg\n",
            "'001.Auk/Auk_1.jpg' twice, by the numbers 1 and 3",
        ),
        ("classes.txt", "1 001.Auk\n2 001.Auk\n3 003.Jay\n", "'001.Auk' twice, by the numbers 1 and 2"),
        ("image_class_labels.txt", "1 1\n1 2\n", "two lines for number 1: '1' and '2'"),
    ],
)
def test_malformed_file_is_named(cub_root: Path, name: str, content: str, message: str) -> None:
    """Empty captions, gaps and broken lines raise an error with the path and the fault."""
    (cub_root / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_cub(cub_root, "train")
    assert str(cub_root / name) in str(caught.value)


def test_what_is_wrong_with_an_image_of_the_other_split_stops_nothing(cub_root: Path) -> None:
    """Its box is broken, and it has none: the training images are read, the test image isn't."""
    lines = (cub_root / "bounding_boxes.txt").read_text().splitlines()
    for owl in (["2 0 0 9"], []):
        (cub_root / "bounding_boxes.txt").write_text("\n".join([lines[0], *owl, *lines[2:]]))
        assert len(read_cub(cub_root, "train")) == 3
        with pytest.raises(UserError, match=r"holds the box '0 0 9'|has no line for number 2"):
            read_cub(cub_root, "test")


def test_what_is_wrong_with_an_image_may_be_collected(cub_root: Path) -> None:
    """The reader goes on without it."""
    (cub_root / "text" / "001.Auk" / "Auk_1.txt").write_text("")
    (cub_root / "bounding_boxes.txt").write_text("1 0 0 9 9\n2 0 0 9 9\n3 0 0 9\n4 0 0 9 9\n")
    problems: list[UserError] = []
    assert [record.key for record in read_cub(cub_root, "train", None, problems)] == ["003.Jay/Jay_1"]
    assert ["is empty" in str(problems[0]), "holds the box '0 0 9'" in str(problems[1])] == [True, True]


def test_one_split_alone_is_read(cub_root: Path) -> None:
    """Whoever evaluates may have no list of the training classes."""
    (cub_root / "trainvalclasses.txt").unlink()
    assert len(read_cub(cub_root, "test")) == 1


def test_captions_of_another_encoding(cub_root: Path) -> None:
    """They are refused unless their encoding is named."""
    (cub_root / "text" / "001.Auk" / "Auk_1.txt").write_bytes("ein grüner Vogel".encode("utf-16-le"))
    with pytest.raises(UndecodableError, match=r"Auk_1\.txt is no text in UTF-8"):
        read_cub(cub_root, "train")
    assert read_cub(cub_root, "train", "utf-16-le")[0].captions == ("ein grüner Vogel",)


def test_unknown_split(cub_root: Path) -> None:
    """A split that doesn't exist is refused by name."""
    with pytest.raises(UserError, match="unknown split 'val'"):
        read_cub(cub_root, "val")
