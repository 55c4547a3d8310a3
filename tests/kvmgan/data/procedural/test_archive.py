"""The folder of birds: CUB's layout with the truth, whole or not at all, the same from the same settings."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kvmgan.data.procedural import archive
from kvmgan.data.procedural.archive import BirdsSettings, ensure_birds, load_attributes
from kvmgan.data.procedural.attributes import ATTRIBUTES, Species, make_species
from kvmgan.data.readers.cub import read_cub
from kvmgan.data.tokens import tokenize
from kvmgan.errors import UserError

TINY = BirdsSettings(classes=3, test_classes=1, images_per_class=2, captions_per_image=2, image_size=32, seed=9)

# Mean red, green and blue of the four quarters of every picture that TINY with seed 0 draws.
SEED_0_PICTURES = (
    (117, 158, 169, 124, 178, 186, 105, 156, 175, 117, 153, 162),
    (227, 214, 183, 206, 190, 166, 195, 170, 138, 200, 181, 151),
    (201, 159, 177, 221, 183, 192, 194, 154, 156, 181, 148, 150),
    (155, 192, 226, 167, 182, 206, 178, 190, 199, 186, 200, 211),
    (198, 174, 179, 178, 153, 169, 181, 145, 143, 192, 161, 158),
    (216, 212, 187, 230, 219, 195, 213, 194, 157, 193, 170, 136),
)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of `folder` by its path inside."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_cub_reader_reads_it(birds_root: Path, birds_settings: BirdsSettings) -> None:
    """Both splits have their images and captions, in classes of their own, with a box inside the image."""
    train, test = read_cub(birds_root, "train"), read_cub(birds_root, "test")
    assert (len(train), len(test)) == (24, 8)
    assert not {record.class_id for record in train} & {record.class_id for record in test}
    for record in train + test:
        assert len(record.captions) == birds_settings.captions_per_image
        with Image.open(record.image_path) as image:
            assert image.size == (48, 48)
        x, y, width, height = record.box
        assert 0 <= x <= x + width <= 48
        assert 0 <= y <= y + height <= 48
        assert max(width, height) > 20


def test_the_truth_fits_the_captions(birds_root: Path) -> None:
    """For every caption on disk, the value words in it are the values of the attributes that it is said to name."""
    truth = load_attributes(birds_root)
    assert truth.values == ATTRIBUTES
    records = read_cub(birds_root, "train") + read_cub(birds_root, "test")
    assert {record.key for record in records} == truth.images.keys() == truth.captions.keys()
    words = {value for values in ATTRIBUTES.values() for value in values}
    for record in records:
        shown = {name: ATTRIBUTES[name][index] for name, index in truth.images[record.key].items()}
        assert shown.keys() == ATTRIBUTES.keys()
        for caption, named in zip(record.captions, truth.captions[record.key], strict=True):
            assert sorted(word for word in tokenize(caption) if word in words) == sorted(shown[name] for name in named)


def test_images_of_a_class_share_all_but_the_background(birds_root: Path) -> None:
    """The species fixes everything that isn't drawn for each image."""
    truth = load_attributes(birds_root)
    by_class: dict[str, set[tuple]] = {}
    for key, values in truth.images.items():
        fixed = tuple(sorted((name, index) for name, index in values.items() if name != "background"))
        by_class.setdefault(key.partition("/")[0], set()).add(fixed)
    assert all(len(found) == 1 for found in by_class.values())
    assert len(set.union(*by_class.values())) == len(by_class)


def test_same_settings_same_files(tmp_path: Path) -> None:
    """Two runs write the same bytes under the same name; another seed another name and other pictures."""
    first, second = (ensure_birds(tmp_path / name, TINY) for name in ("a", "b"))
    assert first.name == second.name
    assert contents(first) == contents(second)
    other = ensure_birds(tmp_path / "a", BirdsSettings(**{**vars(TINY), "seed": 10}))
    assert other.name != first.name


def test_seed_0_draws_what_it_always_did(tmp_path: Path) -> None:
    """Lists, captions and truth byte for byte, pictures but for rounding: else _DRAWING_VERSION has to rise."""
    folder = ensure_birds(tmp_path, BirdsSettings(**{**vars(TINY), "seed": 0}))
    written = contents(folder)
    texts = b"".join(name.encode() + written[name] for name in sorted(written) if not name.endswith(".jpg"))
    assert hashlib.sha256(texts).hexdigest() == "d83642c08493b4a9bc00da09bb8598558bdf01e6ff8c7e3611b91919e4e05c9d"
    for path, expected in zip(sorted(folder.rglob("*.jpg")), SEED_0_PICTURES, strict=True):
        with Image.open(path) as image:
            quarters = np.asarray(image.reduce(16)).ravel()
        np.testing.assert_allclose(quarters.astype(int), expected, rtol=0, atol=2)


def test_no_two_seeds_share_a_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that are equal in their low 32 bits, or whose high ones are a species' number, draw birds of their own.

    All species look alike here, so that only the stream of a picture tells it from the others. Numpy takes the entropy
    (1 << 32, 1) for (0, 1, 1): a seed's high word stands where the species' number does.
    """
    look = make_species(2, 1, 0)[0].attributes
    alike = [Species(f"{number:03d}.Bird", look, number == 3) for number in (1, 2, 3)]
    monkeypatch.setattr(archive, "make_species", lambda *_: alike)
    seeds = (0, 1, 2, 2**31, 2**32, 2**32 + 1, 2 * 2**32, 3 * 2**32, 2**63 - 1)
    folders = [ensure_birds(tmp_path, BirdsSettings(**{**vars(TINY), "seed": seed})) for seed in seeds]
    drawn = [path.read_bytes() for folder in folders for path in folder.rglob("*.jpg")]
    assert len(set(drawn)) == len(drawn) == 6 * len(seeds)


def test_a_complete_folder_is_returned_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn the second time."""
    folder = ensure_birds(tmp_path, TINY)
    monkeypatch.setattr(archive, "draw_bird_with_box", None)
    assert ensure_birds(tmp_path, TINY) == folder
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C half way removes the temporary folder; the next run starts afresh."""

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_birds(tmp_path, TINY, stop)
    assert list(tmp_path.iterdir()) == []
    assert len(read_cub(ensure_birds(tmp_path, TINY), "train")) == 4


def test_progress_counts_to_the_total(tmp_path: Path) -> None:
    """One call an image."""
    seen: list[tuple[int, int]] = []
    ensure_birds(tmp_path, TINY, lambda done, total: seen.append((done, total)))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """Other settings under the same name, and a folder without settings, are never overwritten."""
    folder = ensure_birds(tmp_path, TINY)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "seed": 1}))
    with pytest.raises(UserError, match="move or delete it"):
        ensure_birds(tmp_path, TINY)
    (folder / "settings.json").unlink()
    with pytest.raises(UserError, match="move or delete it"):
        ensure_birds(tmp_path, TINY)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the cache folder should be gives one clear line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ensure_birds(tmp_path / "file", TINY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes=1"),
        ({"classes": 5, "test_classes": 5}, "test_classes=5: expected fewer than classes=5"),
        ({"images_per_class": 0}, "images_per_class=0"),
        ({"captions_per_image": 0}, "captions_per_image=0"),
        ({"image_size": 8}, "image_size=8"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed=9223372036854775808: expected less than 9223372036854775808"),
    ],
)
def test_impossible_settings(options: dict[str, int], message: str) -> None:
    """The message names the setting."""
    with pytest.raises(UserError, match=message):
        BirdsSettings(**options)


@pytest.mark.parametrize("name", ["attributes.json", "image_attributes.jsonl", "caption_attributes.jsonl"])
def test_truth_missing_or_broken(tmp_path: Path, name: str) -> None:
    """A missing file is named; one that doesn't fit says so."""
    folder = ensure_birds(tmp_path, TINY)
    (folder / name).write_text("{}\n")
    with pytest.raises(UserError, match="don't fit each other"):
        load_attributes(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_attributes(folder)
