"""``python -m kvmgan.data``: what is counted, shown and found wrong, what is decoded; the data stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from miniature_data import MINIATURES, TEST, TRAIN
from PIL import Image

from kvmgan.data.__main__ import main
from kvmgan.train import main as train


@pytest.fixture
def inspect(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, list[str], str]]:
    """Inspects the folder "data"; returns the status, the lines and what stands on standard error."""

    def run(*words: str) -> tuple[int, list[str], str]:
        status = main(["inspect", str(tmp_path / "data"), "--size", "32", "--sheet", str(tmp_path / "a.png"), *words])
        output = capsys.readouterr()
        return status, output.out.splitlines(), output.err

    return run


@pytest.fixture(params=MINIATURES)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A miniature of each data set in the folder "data"."""
    (tmp_path / "data").mkdir()
    MINIATURES[request.param](tmp_path / "data")
    return request.param


def test_counts_and_a_sheet(layout: str, tmp_path: Path, inspect: Callable) -> None:
    """Both splits, the words, and a picture of 16 captions; the folder stays as it was."""
    before = sorted((tmp_path / "data").rglob("*"))
    status, lines, errors = inspect()
    assert (status, errors) == (0, "")
    classes = {"cub": (3, 2), "attngan": (3, 2), "coco": (12, 6), "dfgan": (12, 6)}[layout]
    assert lines[:3] == [
        f"layout:     {'attngan' if layout == 'dfgan' else layout}",
        f"train:      {len(TRAIN)} images of {classes[0]} classes, {2 * len(TRAIN)} captions of up to 5 words",
        f"test:       {len(TEST)} images of {classes[1]} classes, {2 * len(TEST)} captions of up to 5 words",
    ]
    # A vocabulary that the data brings along has a word that no caption uses.
    assert lines[3] == f"vocabulary: {7 if layout in ('cub', 'coco') else 8} words"
    # The miniature of DF-GAN draws the same noise for both splits.
    assert lines[-1] == f"nothing is missing or broken, {6 if layout == 'dfgan' else 0} doubtful"
    assert Image.open(tmp_path / "a.png").size == (4 * 200 + 8, Image.open(tmp_path / "a.png").size[1])
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_the_sheet_is_drawn_by_the_seed(tmp_path: Path, inspect: Callable) -> None:
    (tmp_path / "data").mkdir()
    MINIATURES["cub"](tmp_path / "data")
    sheets = []
    for seed in ("0", "0", "1"):
        inspect("--seed", seed)
        sheets.append((tmp_path / "a.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


def _image(root: Path, number: int) -> Path:
    return root / "images" / f"{(TRAIN + TEST)[number]}.jpg"


def _caption(root: Path, number: int) -> Path:
    return root / "text" / f"{(TRAIN + TEST)[number]}.txt"


def test_everything_that_is_wrong_is_listed_file_by_file(tmp_path: Path, inspect: Callable) -> None:
    """Eleven faults in one folder: each is a line with its file, and the status says that not all is well."""
    root = tmp_path / "data"
    root.mkdir()
    MINIATURES["cub"](root)
    _image(root, 0).unlink()
    _image(root, 1).write_bytes(_image(root, 1).read_bytes()[:700])
    _caption(root, 2).unlink()
    _caption(root, 3).write_text(" \n")
    _caption(root, 4).write_bytes("a bird".encode("utf-16-le"))
    shutil.copy(_image(root, 5), _image(root, 6))
    shutil.copy(_image(root, 7), _image(root, 17))
    _caption(root, 8).write_text("a bird\nA bird!\n")
    _caption(root, 9).write_text("a bird\n鸟\n")
    Image.new("RGB", (30, 200)).save(_image(root, 10))
    lines = (root / "bounding_boxes.txt").read_text().splitlines()
    lines[10], lines[11] = "11 0 0 30 200", "12 900 900 10 10"
    (root / "bounding_boxes.txt").write_text("\n".join(lines))
    status, lines, errors = inspect()
    assert status == 2 and errors == "error: 2 missing, 4 broken, 6 doubtful\n"
    expected = [
        ("missing", _image(root, 0), "is missing"),
        ("broken", _image(root, 1), "can't be decoded"),
        ("missing", _caption(root, 2), "is missing"),
        ("broken", _caption(root, 3), "is empty"),
        ("broken", _caption(root, 4), "is no text in UTF-8"),
        ("doubtful", _image(root, 6), f"(train) is the same file as {_image(root, 5)} in the same split"),
        ("doubtful", _image(root, 17), f"(test) is the same file as {_image(root, 7)} in the train split"),
        ("doubtful", TRAIN[8], "has a caption more than once"),
        ("doubtful", TRAIN[9], "has the caption '鸟', in which there is no word"),
        ("doubtful", _image(root, 10), "30 x 200 around its box: it is enlarged for pictures of 32"),
        ("doubtful", _image(root, 10), "30 x 200 around its box: a square crop shows a small part"),
        ("broken", _image(root, 11), "lies outside the image"),
    ]
    found = [line for line in lines if line.startswith(("missing", "broken", "doubtful"))]
    assert len(found) == len(expected)
    for kind, file, text in expected:
        assert [line for line in found if line.startswith(f"{kind}:") and str(file) in line and text in line], text
    # The other images are counted and shown.
    assert lines[1].startswith("train:      9 images of 3 classes")


def test_a_split_that_can_not_be_read_is_one_finding(tmp_path: Path, inspect: Callable) -> None:
    """The other one is still looked at."""
    root = tmp_path / "data"
    root.mkdir()
    MINIATURES["coco"](root)
    path = root / "annotations" / "captions_val2014.json"
    path.write_text("{")
    status, lines, _ = inspect()
    assert status == 2
    assert [line.split(":")[0] for line in lines] == ["layout", "train", "vocabulary", "sheet", "broken"]
    assert f"{path} is not valid JSON" in lines[-1]


def test_a_folder_of_ones_own(tmp_path: Path, inspect: Callable) -> None:
    """What both splits would stumble over is said once; another encoding is named by an option."""
    root = tmp_path / "data"
    root.mkdir()
    for number in range(12):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(root / f"{number:02d}.png")
        (root / f"{number:02d}.txt").write_bytes(f"ein grüner Vogel {number}".encode("latin-1"))
    status, lines, errors = inspect()
    assert status == 2 and errors == "error: 0 missing, 13 broken, 0 doubtful\n"
    status, lines, errors = inspect("--encoding", "latin-1")
    assert (status, errors) == (0, "")
    assert lines[1:3] == [
        "train:      11 images of 11 classes, 11 captions of up to 4 words",
        "test:       1 images of 1 classes, 1 captions of up to 4 words",
    ]
    (root / "05.txt").unlink()
    with (root / "captions.jsonl").open("w") as file:
        for number in (*range(11), 99):
            file.write(json.dumps({"image": f"{number:02d}.png", "captions": ["a bird"]}) + "\n")
    status, lines, errors = inspect()
    assert errors == "error: 1 missing, 0 broken, 0 doubtful\n"
    assert f"{root / '99.png'} is missing" in lines[-1]


def test_prepared_images_are_trained_on(
    layout: str,
    tiny_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twice prepared, decoded once; the run decodes nothing, and ends with the weights that it has without them."""
    root, cache = tmp_path / "data", tmp_path / "cache"
    arguments = [*tiny_arguments[:-2], "--data.root", str(root), "--training.steps", "2"]
    plain, kept = (tmp_path / name for name in ("plain", "kept"))
    assert train([*arguments, "--cache-dir", str(tmp_path / "other"), "--runs-dir", str(plain)]) == 0
    words = ["prepare", str(root), "--size", "32", "--cache-dir", str(cache)]
    assert main(words) == 0
    folder = next((cache / "prepared").iterdir())
    before = {path: path.stat().st_mtime_ns for path in folder.glob("shard*")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("shard*")} == before
    assert f"{len(TRAIN + TEST)} images" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr("kvmgan.data.dataset.decode", lambda *rest: pytest.fail("decoded"))
    monkeypatch.setattr("kvmgan.data.vocabulary.Vocabulary.build", lambda *rest: pytest.fail("built"))
    assert train([*arguments, "--cache-dir", str(cache), "--runs-dir", str(kept)]) == 0
    weights = [next(runs.glob("*/checkpoints/*/generator.safetensors")).read_bytes() for runs in (plain, kept)]
    assert weights[0] == weights[1]


def test_shards_are_written_whole_or_not_at_all(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every layout; a picture that is damaged is named; into a folder that holds something nothing is written."""
    picture = max((tmp_path / "data").rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes()[:200])
    words = ["shard", str(tmp_path / "data"), str(tmp_path / "shards"), "--samples", "5"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("warning")] == [line for line in lines if str(picture) in line]
    assert any(line.startswith(f"train: {len(TRAIN)} images in 3 shards, ") for line in lines)
    assert any(line.startswith(f"test:  {len(TEST) - 1} images in 1 shard, ") for line in lines)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    assert main(words) == 2
    assert "isn't empty: name another folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == before
    assert main([*words[:2], "/proc/shards"]) == 2
    assert "/proc/shards cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "shards"]


def test_a_folder_that_can_not_be_prepared_into(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It is named before anything is decoded."""
    (tmp_path / "data").mkdir()
    MINIATURES["cub"](tmp_path / "data")
    (tmp_path / "file").touch()
    assert main(["prepare", str(tmp_path / "data"), "--cache-dir", str(tmp_path / "file" / "cache")]) == 2
    assert "--cache-dir" in capsys.readouterr().err


def test_captions_without_a_word_are_found(tmp_path: Path, inspect: Callable) -> None:
    """There is no vocabulary and no sheet; each image is listed all the same."""
    root = tmp_path / "data"
    root.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text("???\n")
    status, lines, errors = inspect()
    assert status == 2 and errors == "error: 0 missing, 1 broken, 3 doubtful\n"
    assert len([line for line in lines if "has the caption '???'" in line]) == 3
    assert lines[-1] == "broken:     the vocabulary is empty: the captions hold no word"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "takes the command inspect or prepare or shard or unpack, got none"),
        (["look", "x"], "takes the command inspect or prepare or shard or unpack, got look"),
        (["inspect", "/nonexistent"], "error: /nonexistent is missing: it should be a folder of images"),
        (["inspect", "/proc/version"], "/proc/version is a file: it should be a folder of images"),
        (["inspect", ".", "--size", "8"], "--size is 8"),
        (["inspect", ".", "--encoding", "hex"], "--encoding is 'hex': Python knows no text encoding"),
        (["shard", ".", "x", "--samples", "0"], "--samples is 0"),
        (["shard", "/nonexistent", "x"], "error: /nonexistent is missing"),
        (["inspect", "/proc/self/fd"], "is no data set that is known"),
    ],
)
def test_bad_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1
