"""Which layout lies in a folder: from the files alone, in a fixed order, with an error that helps."""

import shutil
from pathlib import Path

import pytest

from kvmgan.data.readers.layouts import find_layout
from kvmgan.errors import UserError


def write(root: Path, *names: str) -> Path:
    """Create empty files (and folders, for names that end in a slash) below `root`."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def test_drawn_birds(birds_root: Path) -> None:
    """What `ensure_birds` wrote is birds, and looking changes no file."""
    before = {path: path.stat().st_mtime_ns for path in birds_root.rglob("*")}
    assert find_layout(birds_root) == "birds"
    assert {path: path.stat().st_mtime_ns for path in birds_root.rglob("*")} == before


@pytest.mark.parametrize("missing", ["settings.json", "attributes.json"])
def test_birds_without_their_truth_are_cub(birds_root: Path, tmp_path: Path, missing: str) -> None:
    """The lists alone are CUB's."""
    root = shutil.copytree(birds_root, tmp_path / "copy")
    (root / missing).unlink()
    assert find_layout(root) == "cub"


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["CUB_200_2011/"], "cub"),
        (["images.txt", "classes.txt"], "cub"),
        (["annotations/captions_train2014.json", "train2014/"], "coco"),
        (["annotations/captions_val2014.json"], "coco"),
        (["captions_train2014.json", "train2014/"], "coco"),
        (["captions_val2014.json", "val2014/"], "coco"),
        (["shards.json", "train-000000.tar"], "shards"),
        (["captions.jsonl"], "folder"),
        (["a.png", "a.txt"], "folder"),
        (["other.jpg", "deep/inside/B.JPEG", "deep/inside/B.txt"], "folder"),
    ],
)
def test_every_layout_has_its_files(tmp_path: Path, names: list[str], layout: str) -> None:
    """Each of these is enough, and nothing is written."""
    write(tmp_path, *names)
    before = sorted(tmp_path.rglob("*"))
    assert find_layout(tmp_path) == layout
    assert sorted(tmp_path.rglob("*")) == before


def test_the_order_decides_between_layouts(tmp_path: Path) -> None:
    """Birds come before CUB, CUB before COCO, COCO before a folder of images."""
    write(tmp_path, "a.png", "a.txt", "captions.jsonl")
    assert find_layout(tmp_path) == "folder"
    write(tmp_path, "annotations/captions_val2014.json")
    assert find_layout(tmp_path) == "coco"
    write(tmp_path, "images.txt", "classes.txt")
    assert find_layout(tmp_path) == "cub"
    write(tmp_path, "settings.json", "attributes.json")
    assert find_layout(tmp_path) == "birds"


@pytest.mark.parametrize(
    "names",
    [
        ["images.txt"],
        ["images.txt/", "classes.txt/"],
        ["CUB_200_2011"],
        ["captions_train2014.json"],
        ["train2014/", "val2014/"],
        ["annotations/instances_train2014.json", "train2014/"],
        ["captions.jsonl/"],
        ["a.png"],
        ["a.txt"],
        ["a.png", "b.txt"],
        [".hidden/a.png", ".hidden/a.txt"],
        [".a.png", ".a.txt"],
        ["a.png/", "a.txt"],
    ],
)
def test_half_a_layout_is_none(tmp_path: Path, names: list[str]) -> None:
    """A list without the other, a file in place of a folder, captions without images, hidden pairs: all are refused."""
    with pytest.raises(UserError, match="is no data set that is known"):
        find_layout(write(tmp_path, *names))


def test_the_error_says_what_is_there_and_what_is_needed(tmp_path: Path) -> None:
    """The first entries, how many more, and the files of all four layouts, in one line."""
    write(tmp_path, ".git/", "notes.md", "pictures/", *(f"z{number}.csv" for number in range(6)))
    with pytest.raises(UserError) as caught:
        find_layout(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path} is no data set" in message
    assert "it holds notes.md, pictures/, z0.csv, z1.csv, z2.csv and 3 more;" in message
    for need in ("birds: settings.json", "cub: CUB_200_2011/", "coco: annotations/", "folder: captions.jsonl"):
        assert need in message
    assert "\n" not in message


def test_empty_missing_and_a_file(tmp_path: Path) -> None:
    """Nothing in it, nothing there, and a file in its place are told apart."""
    with pytest.raises(UserError, match="it holds nothing"):
        find_layout(tmp_path)
    with pytest.raises(UserError, match="gone is missing"):
        find_layout(tmp_path / "gone")
    with pytest.raises(UserError, match=r"data\.zip is a file"):
        find_layout(write(tmp_path, "data.zip") / "data.zip")
