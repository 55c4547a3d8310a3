"""The data of a run: found by name or by its layout, and batches that fit it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from miniature_data import MINIATURES
from PIL import Image

from kvmgan.config import ClassifierOptions, DamsmOptions, DataOptions, ModelOptions, Options, TrainingOptions
from kvmgan.data.procedural.archive import BirdsSettings, ensure_birds
from kvmgan.data.readers.cub import read_cub
from kvmgan.errors import UserError
from kvmgan.training.datasets import data_root, fit_to_data, load_records, load_splits, with_layout


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six birds of two species for training, three of one for the test."""
    settings = BirdsSettings(classes=3, test_classes=1, images_per_class=3, captions_per_image=2, image_size=48)
    return ensure_birds(tmp_path_factory.mktemp("birds"), settings)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Fifteen pictures of one's own."""
    for number in range(15):
        Image.new("RGB", (40, 40), (8 * number, 90, 200)).save(tmp_path / f"{number:02d}.png")
        (tmp_path / f"{number:02d}.txt").write_text(f"shape number {number}\n")
    return tmp_path


SIZES = (16, 32)


def _options(data: DataOptions, batch_size: int = 4) -> Options:
    return Options(
        data=data,
        model=ModelOptions(stages=2, base_size=16),
        damsm=DamsmOptions(batch_size=batch_size),
        classifier=ClassifierOptions(batch_size=batch_size),
        training=TrainingOptions(batch_size=batch_size),
    )


def test_birds_are_read_as_cub(birds: Path) -> None:
    """The procedural birds go through the CUB reader."""
    assert load_records(DataOptions(), birds, "test") == read_cub(birds, "test")


def test_a_root_alone_tells_the_layout(birds: Path, pictures: Path) -> None:
    """With the default name the layout is found out; a name that was given stands; without a root nothing is."""
    assert with_layout(DataOptions(root=pictures)).name == "folder"
    assert with_layout(DataOptions(root=birds)).name == "birds"
    assert with_layout(DataOptions(name="cub", root=birds)).name == "cub"
    assert with_layout(DataOptions()) == DataOptions()


def test_an_unknown_layout_and_a_missing_root_are_refused(tmp_path: Path) -> None:
    """Nothing is drawn into a folder that holds something else."""
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match=r"notes\.md"):
        with_layout(DataOptions(root=tmp_path))
    for name in ("birds", "cub"):
        with pytest.raises(UserError, match=r"gone is missing: --data\.root"):
            with_layout(DataOptions(name=name, root=tmp_path / "gone"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


def test_another_encoding_is_named_by_an_option(pictures: Path) -> None:
    """The message names the option, which reads what it names."""
    first = sorted(pictures.rglob("*.txt"))[0]
    first.write_bytes("ein grüner Vogel".encode("utf-16-le"))
    data = with_layout(DataOptions(root=pictures))
    with pytest.raises(UserError, match=rf"{first.name} is no text in UTF-8 .*name its encoding by --data\.encoding"):
        load_splits(data, SIZES, pictures)
    splits = load_splits(dataclasses.replace(data, encoding="utf-16-le"), SIZES, pictures)
    assert "vogel" in splits.vocabulary.words


@pytest.mark.parametrize(("preset", "miniature"), [("cub", "attngan"), ("coco", "dfgan")])
def test_a_preset_takes_its_data_in_either_layout(tmp_path: Path, preset: str, miniature: str) -> None:
    """With AttnGAN's metadata alone it is read by that, with the lists of the public archive by them."""
    MINIATURES[miniature](tmp_path)
    data = DataOptions(name=preset, root=tmp_path)
    assert with_layout(data).name == "attngan"
    MINIATURES[preset](tmp_path)
    assert with_layout(data).name == preset
    assert with_layout(DataOptions(root=tmp_path)).name == "attngan"


def test_nothing_is_written_into_a_data_root(birds: Path, tmp_path: Path) -> None:
    """Drawn birds that lie in a root are read there, whatever the settings of the drawings say."""
    before = sorted(birds.rglob("*"))
    assert data_root(DataOptions(root=birds), tmp_path / "cache") == birds
    splits = load_splits(DataOptions(root=birds), SIZES, birds)
    assert splits.truth is not None and (len(splits.train), len(splits.test)) == (6, 3)
    assert sorted(birds.rglob("*")) == before and not (tmp_path / "cache").exists()


def test_batches_are_lowered_to_the_data(birds: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    """With a note for each; the classifier's only where a classifier is trained."""
    options = _options(DataOptions(root=birds), batch_size=10)
    fitted = fit_to_data(options, load_splits(options.data, SIZES, birds))
    assert [getattr(fitted, g).batch_size for g in ("training", "damsm", "classifier")] == [6, 6, 6]
    notes = capsys.readouterr().out.splitlines()
    assert len(notes) == 3 and "--damsm.batch-size 10 is lowered to the 6 training images" in notes[1]

    options = _options(with_layout(DataOptions(root=pictures)), batch_size=40)
    fitted = fit_to_data(options, load_splits(options.data, SIZES, pictures))
    assert [getattr(fitted, g).batch_size for g in ("training", "damsm", "classifier")] == [14, 14, 40]
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]) == 2

    options = _options(with_layout(DataOptions(root=pictures)), batch_size=14)
    assert fit_to_data(options, load_splits(options.data, SIZES, pictures)) == options
    assert "note" not in capsys.readouterr().out


def test_a_single_training_image_is_refused(tmp_path: Path) -> None:
    """It has no mismatched caption."""
    for number in range(2):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a shape\n")
    data = with_layout(DataOptions(root=tmp_path))
    with pytest.raises(UserError, match="1 usable training image: two are needed"):
        load_splits(data, SIZES, tmp_path)


def test_the_digest_is_that_of_what_is_seen(birds: Path) -> None:
    """Another caption, class or word changes it; the word limit, which is a setting of its own, doesn't."""
    splits = load_splits(DataOptions(root=birds), SIZES, birds)
    digest = splits.digest
    assert load_splits(DataOptions(root=birds, max_words=3), SIZES, birds).digest == digest
    for part in (splits.train, splits.test):
        original = part.records[0]
        for change in ({"captions": ("another",)}, {"class_id": 99}):
            part.records[0] = dataclasses.replace(original, **change)
            assert dataclasses.replace(splits).digest != digest
        part.records[0] = original
    assert dataclasses.replace(splits).digest == digest
