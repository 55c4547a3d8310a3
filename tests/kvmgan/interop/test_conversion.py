"""Released files become a checkpoint that is sampled, judged and trained on like any other, and go back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from miniature_data import MINIATURES, WORDS
from python2_pickle import python2_pickle
from torch import Tensor

pytest.importorskip("torchvision", reason="the released image encoder is Inception-v3, which torchvision has")

from kvmgan.config_file import load_options
from kvmgan.evaluate import main as evaluate
from kvmgan.interop.__main__ import main
from kvmgan.interop.released import release_discriminator, release_generator
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.inception_encoder import InceptionImageEncoder
from kvmgan.models.text_encoder import TextEncoder
from kvmgan.sample import main as sample
from kvmgan.train import main as train


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A released model of 16 and 32 pixels, every network with random weights."""
    folder = tmp_path_factory.mktemp("released")
    torch.manual_seed(0)
    generator = Generator(stages=2, base_size=16, width=4, noise_dim=6, condition_dim=5, sentence_dim=8, word_dim=8)
    states: dict[str, dict[str, Tensor]] = {
        "generator": release_generator(generator),
        "text-encoder": TextEncoder(len(WORDS), embedding_dim=10, word_dim=8).state_dict(),
        "image-encoder": InceptionImageEncoder(feature_dim=8).state_dict(),
        "discriminator 0": release_discriminator(Discriminator(64, width=4, sentence_dim=8)),
    }
    paths = {}
    for name, state in states.items():
        paths[name] = folder / f"{name}.pth"
        torch.save(state, paths[name])
    words = dict(enumerate(WORDS))
    paths["captions"] = folder / "captions.pickle"
    paths["captions"].write_bytes(python2_pickle([[], [], words, {word: index for index, word in words.items()}]))
    return paths


def words_for(files: dict[str, Path], out: Path, *more: str) -> list[str]:
    """The words of a conversion."""
    given = ("generator", "text-encoder", "image-encoder", "captions")
    named = [word for name in given for word in (f"--{name}", str(files[name]))]
    return ["convert", str(out), *named, *more]


def test_a_released_model_is_sampled_judged_trained_on_and_goes_back(files, tmp_path, tiny_arguments, capsys):
    """All commands take it; what is exported is what was converted, to the bit."""
    root, run = tmp_path / "data", tmp_path / "dm-gan"
    root.mkdir()
    MINIATURES["cub"](root)
    assert main(words_for(files, run, "--data-root", str(root))) == 0
    options = load_options(run / "config.yaml")
    assert options.model.sizes == (16, 32) and options.model.memory.detach_mean and not options.model.legacy_mask
    assert (options.damsm.encoder, options.damsm.word_dim, options.damsm.embedding_dim) == ("inception", 8, 10)
    assert sample([str(run), "a red bird", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert sample([str(run), "a purple bird", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "purple" in capsys.readouterr().err
    small = ["--evaluation.images", "12", "--evaluation.candidates", "4", "--evaluation.folds", "3"]
    own = ["--metrics", "r-precision", "--device", "cpu"]
    assert evaluate([str(run), *own, *small, *tiny_arguments[-2:]]) == 0
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["metric"] == "r_precision"

    assert main(["export", str(run), str(tmp_path / "back")]) == 0
    for theirs, mine in (("generator", "netG"), ("text-encoder", "text_encoder"), ("image-encoder", "image_encoder")):
        wanted = torch.load(files[theirs], weights_only=True)
        found = torch.load(tmp_path / "back" / f"{mine}.pth", weights_only=True)
        assert found.keys() == wanted.keys()
        assert all(found[n].shape == w.shape and torch.equal(found[n], w) for n, w in wanted.items()), theirs
    assert (tmp_path / "back" / "netD1.pth").exists()

    # The released files themselves have such names: none of them is written over, and nothing beside them.
    own = tmp_path / "own"
    own.mkdir()
    (own / "netG.pth").write_bytes(b"released")
    capsys.readouterr()
    assert main(["export", str(run), str(own)]) == 2
    assert capsys.readouterr().err == (
        f"error: {own} has netG.pth already: name a folder without them, or move them away\n"
    )
    assert [path.read_bytes() for path in own.iterdir()] == [b"released"]

    resumed = ["--resume", str(run), "--training.steps", "1", "--data.workers", "0", *small]
    assert train([*resumed, *tiny_arguments[-2:]]) == 0
    assert (run / "checkpoints" / "step-000001").is_dir()


def test_the_released_order_of_masks_is_kept(files, tmp_path):
    assert main(words_for(files, tmp_path / "run", "--legacy-mask")) == 0
    assert load_options(tmp_path / "run" / "config.yaml").model.legacy_mask


def test_what_does_not_fit_together_is_one_line_and_writes_nothing(files, tmp_path, capsys):
    """Encoders of another length, a vocabulary of another size, too few discriminators, a folder that exists."""
    other = tmp_path / "other.pth"
    torch.save(TextEncoder(len(WORDS), embedding_dim=10, word_dim=12).state_dict(), other)
    few = tmp_path / "few.pickle"
    few.write_bytes(python2_pickle([[], [], {0: "<end>", 1: "bird"}, {"<end>": 0, "bird": 1}]))
    out = tmp_path / "run"
    wrong = [
        (words_for(files | {"text-encoder": other}, out), "other.pth gives features of 12 numbers"),
        (words_for(files | {"captions": few}, out), f"knows {len(WORDS)} words and {few} has 2"),
        (words_for(files | {"generator": files["text-encoder"]}, out), "isn't a released generator"),
        (words_for(files, out, "--discriminators", str(files["discriminator 0"])), "has 1 files for pictures of 2"),
        (words_for(files, tmp_path), f"{tmp_path} exists"),
        (["look"], "takes the command convert or export, got look"),
        (["export", str(tmp_path / "none"), str(out)], "none doesn't exist"),
    ]
    for words, message in wrong:
        assert main(words) == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1, message
        assert not out.exists()
