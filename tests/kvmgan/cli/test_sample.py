"""The sample command, from a checkpoint folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from kvmgan.models.generator import Generator
from kvmgan.pipeline.pipeline import Pipeline
from kvmgan.random_streams import normal_noise
from kvmgan.sample import main
from kvmgan.training.checkpoint import Checkpoint

CAPTION = "a small red bird with blue wings"
SEEDS = (0, 1, 12345, 2**32, 2**63 - 1)


@pytest.fixture
def checkpoint(tiny_run: Path, tmp_path: Path) -> Path:
    """A checkpoint moved away from its run and from the cache."""
    return Path(shutil.copytree(tiny_run / "checkpoints" / "step-000006", tmp_path / "moved"))


def _pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_picture_stages_and_attention_are_written(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), CAPTION, "a blue bird", "--count", "2", "--out", str(out)]) == 0
    stems = [f"{n}-{v}" for n in ("001-a-small-red-bird-with-blue-wings", "002-a-blue-bird") for v in (1, 2)]
    expected = {f"{stem}{kind}.png" for stem in stems for kind in ("", "-stages", "-attention")}
    assert {path.name for path in out.iterdir()} == expected
    assert set(capsys.readouterr().out.split()) == {str(out / name) for name in expected}
    assert Image.open(out / f"{stems[0]}.png").size == (32, 32)
    assert len({_pixels(out / f"{stem}.png") for stem in stems}) == 4


def test_seed_decides_the_picture_whatever_stands_beside_it(tiny_run, tmp_path):
    for name, words in {
        "a": [CAPTION],
        "b": [CAPTION, "a blue bird"],
        "c": [CAPTION, "--seed", "1"],
    }.items():
        assert main([str(tiny_run), *words, "--out", str(tmp_path / name)]) == 0
    first, second, third = (_pixels(next((tmp_path / n).glob("001-*wings.png"))) for n in "abc")
    assert first == second != third


def test_the_same_command_writes_the_same_files_again(tiny_run, tmp_path):
    words = [str(tiny_run), CAPTION, "--count", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    before = _files(tmp_path)
    assert main(words) == 0
    assert len(before) == 6 and _files(tmp_path) == before


def test_no_other_picture_is_written_over(tiny_run, tmp_path, capsys):
    """By another seed, truncation, number of tries, precision or model, beside a user's own file; all names printed."""
    other = Pipeline.from_pretrained(str(tiny_run))
    with torch.no_grad():
        other.generator.heads[-1].conv.weight.mul_(1.1)
    other.save_pretrained(tmp_path / "other")
    out = tmp_path / "out"
    out.mkdir()
    own = out / "001-a-small-red-bird-with-blue-wings.png"
    Image.new("RGB", (8, 8)).save(own)
    calls = [
        [str(tiny_run)],
        [str(tiny_run), "--seed", "1"],
        [str(tiny_run), "--truncation", "0.5"],
        [str(tiny_run), "--tries", "3"],
        [str(tiny_run), "--dtype", "bfloat16"],
        [str(tmp_path / "other")],
    ]
    kept: dict[str, bytes] = _files(out)
    for number, (model, *how) in enumerate(calls, start=2):
        capsys.readouterr()
        assert main([model, CAPTION, *how, "--out", str(out)]) == 0
        names = {f"{own.stem}~{number}{kind}.png" for kind in ("", "-stages", "-attention")}
        assert {Path(line).name for line in capsys.readouterr().out.split()} == names
        now = _files(out)
        assert now.keys() - kept.keys() == names
        assert {name: now[name] for name in kept} == kept
        kept = now


def test_a_picture_says_how_it_was_made(tiny_run, tmp_path):
    """Enough of it to draw it again by the pipeline."""
    caption = "a small red bird, très joli"
    assert main([str(tiny_run), caption, "--count", "2", "--seed", "7", "--out", str(tmp_path)]) == 0
    with Image.open(next(tmp_path.glob("*-2.png"))) as picture:
        pixels, text = picture.tobytes(), picture.text
    how = json.loads(text["Comment"])
    assert text["Description"] == caption and text["Software"].startswith("kvmgan ")
    assert (how["seed"], how["number"], how["truncation"], how["tries"], how["dtype"]) == (7, 2, 1.0, 1, "float32")
    pipeline = Pipeline.from_pretrained(str(tiny_run))
    made = pipeline(pipeline.read(caption), seed=how["seed"], count=how["number"], tries=how["tries"], batch_size=1)
    assert made[-1].picture.tobytes() == pixels


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What every call of the generator is given."""
    calls: list[dict[str, Tensor]] = []
    original = Generator.forward

    def forward(self: Generator, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, **options):
        calls.append({"noise": noise, "mask": mask, **options})
        return original(self, noise, sentence, words, mask, **options)

    monkeypatch.setattr(Generator, "forward", forward)
    return calls


def test_noise_and_condition_are_drawn_by_seed_and_variant(tiny_run, tmp_path, given):
    """Variant v of every caption gets the same numbers, one array split in two; the run's z and c have 8 each."""
    words = [str(tiny_run), CAPTION, "a blue bird", "--count", "2", "--seed", "12345", "--out", str(tmp_path)]
    assert main(words) == 0
    assert len(given) == 4
    for place, call in enumerate(given):
        expected = normal_noise((1, 16), 12345, "sample", place % 2)
        assert torch.equal(call["noise"], expected[:, :8])
        assert torch.equal(call["condition_noise"], expected[:, 8:])


def test_all_seeds_give_pictures_of_their_own(tiny_run, tmp_path):
    pictures = set()
    for seed in SEEDS:
        out = tmp_path / str(seed)
        assert main([str(tiny_run), CAPTION, "--seed", str(seed), "--out", str(out)]) == 0
        pictures.add(_pixels(out / "001-a-small-red-bird-with-blue-wings.png"))
    assert len(pictures) == len(SEEDS)


def test_captions_keep_the_words_of_evaluation(tiny_run, tmp_path, given, capsys):
    """evaluation.max_words is 25 here and data.max_words 18: 20 words are all used, 27 are cut with a warning."""
    assert main([str(tiny_run), "a red bird " * 6 + "a bird", "a red bird " * 9, "--out", str(tmp_path)]) == 0
    assert [call["mask"].shape for call in given] == [(1, 25)] * 2
    assert [int(call["mask"].sum()) for call in given] == [20, 25]
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and "only its first 25 words are used" in warnings[0]


def test_captions_from_a_file(tiny_run, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text(f"{CAPTION}\n\na blue bird\n")
    assert main([str(tiny_run), "--captions-file", str(file), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*-stages.png"))) == 2


def test_unknown_words_are_left_out_with_a_warning(tiny_run, tmp_path, capsys):
    assert main([str(tiny_run), "a red zeppelin bird", "--out", str(tmp_path / "out")]) == 0
    assert "unknown words are left out: zeppelin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "no caption"),
        ([""], "the caption '' holds no word"),
        ([CAPTION, "  "], "holds no word"),
        ([CAPTION, "--count", "0"], "--count is 0"),
        ([CAPTION, "--seed", "-1"], "--seed is -1: it must be 0 or more and below 9223372036854775808"),
        ([CAPTION, "--seed", str(2**63)], f"--seed is {2**63}: it must be 0 or more and below {2**63}"),
        ([CAPTION, "--device", "tpu"], "error: --device is 'tpu'"),
        ([CAPTION, "--device", "cuda:99"], "error: --device is 'cuda:99'"),
        (["--captions-file", "/nonexistent.txt"], "/nonexistent.txt"),
        ([CAPTION, "--sed", "1"], "unknown option --sed"),
    ],
)
def test_bad_input_is_one_line_before_a_checkpoint_is_looked_for(tmp_path, capsys, words, complaint):
    """The run doesn't exist, and yet what is wrong with the words is what is found."""
    out = tmp_path / "out"
    assert main(["/nonexistent/run", *words, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and complaint in error
    assert not out.exists()


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the generator fails the test."""

    def fail(checkpoint: Checkpoint) -> None:
        raise AssertionError("the generator was loaded for input that should have been refused before")

    monkeypatch.setattr(Checkpoint, "generator", fail)


def test_unknown_words_alone_are_refused_before_the_first_picture(tiny_run, tmp_path, capsys, no_networks):
    """On the command line and in a file, beside captions that are good."""
    out, file = tmp_path / "out", tmp_path / "captions.txt"
    file.write_text(f"{CAPTION}\nzeppelin quux\n")
    for words in ([CAPTION, "zeppelin quux"], ["--captions-file", str(file)]):
        assert main([str(tiny_run), *words, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error == "error: the caption 'zeppelin quux' holds only unknown words: zeppelin, quux\n"
        assert not out.exists()


@pytest.mark.parametrize("inside", ["", "below/it"])
def test_a_folder_that_cannot_be_written_is_found_before_drawing(tiny_run, tmp_path, capsys, no_networks, inside):
    """A file stands in the way of the folder, or of the folder above it."""
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert main([str(tiny_run), CAPTION, "--out", str(file / inside)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --out {file / inside} can't be written (") and error.count("\n") == 1


def test_a_disk_that_fills_up_is_one_line(tiny_run, tmp_path, capsys, monkeypatch):
    """What can't be foreseen: the first picture is there, the next one can't be written."""
    original = Image.Image.save
    saved = iter(range(99))

    def fails_at_the_second_caption(picture: Image.Image, *arguments: object, **options: object) -> None:
        # A picture, its stages and its attention are of the first.
        if next(saved) >= 3:
            raise OSError(28, "No space left on device")
        original(picture, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", fails_at_the_second_caption)
    out = tmp_path / "out"
    assert main([str(tiny_run), "a red bird", "a blue bird", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {out / '002-a-blue-bird.png'} cannot be written: No space left on device\n"
    assert (out / "001-a-red-bird.png").exists()


def test_missing_and_corrupt_checkpoints(checkpoint, tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), CAPTION]) == 2
    assert "doesn't exist" in capsys.readouterr().err
    weights = checkpoint / "average.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert main([str(checkpoint), CAPTION, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "is corrupt: average.safetensors" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_sample_command_draws_what_the_pipeline_draws(tiny_run, tmp_path):
    caption = "a small red bird"
    how = ["--seed", "9", "--truncation", "0.5", "--tries", "3"]
    assert main([str(tiny_run), caption, *how, "--out", str(tmp_path)]) == 0
    pipeline = Pipeline.from_pretrained(str(tiny_run))
    made, first = (pipeline(caption, seed=9, truncation=0.5, tries=tries, batch_size=1)[0] for tries in (3, 1))
    assert made.picture.tobytes() != first.picture.tobytes()
    with Image.open(tmp_path / "001-a-small-red-bird.png") as picture:
        assert picture.tobytes() == made.picture.tobytes()
