"""The released AttnGAN and DM-GAN networks are these networks under other names, and give the same pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from python2_pickle import python2_pickle
from safetensors.torch import load_file
from torch import Tensor

from kvmgan.interop import load_discriminator, load_generator, load_text_encoder
from kvmgan.interop.released import release_discriminator, release_generator
from kvmgan.models.text_encoder import word_mask

DATA = Path(__file__).parents[2] / "data"
CONFIGURATIONS = ["dmgan_bird", "dmgan_coco", "attngan_bird", "attngan_coco"]
# The released code drew its condition; the vectors were made with the mean in its place.
CONDITION_MEAN = torch.zeros(3, 100)


@pytest.fixture(params=CONFIGURATIONS)
def released(request) -> tuple[str, dict]:
    """Names and shapes of a released configuration: generator, text_encoder, discriminators."""
    return request.param, json.loads((DATA / f"{request.param}.keys.json").read_text())


def random_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Small random weights by the released names."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: torch.tensor(7) if name.endswith("num_batches_tracked") else torch.rand(shape, generator=rng) / 50
        for name, shape in shapes.items()
    }


def write_captions(path: Path, words: int) -> Path:
    """A captions.pickle whose vocabulary has so many words."""
    by_index = {0: "<end>"} | {index: f"word{index}" for index in range(1, words)}
    path.write_bytes(python2_pickle([[], [], by_index, {word: index for index, word in by_index.items()}]))
    return path


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape and torch.equal(found[name], tensor), name


def test_generators_load_and_go_back_to_the_same_names(released, tmp_path):
    """Sizes are read from the shapes; every weight comes back where it was, in its released shape."""
    name, shapes = released
    state = random_state(shapes["generator"])
    torch.save(state, tmp_path / "netG.pth")
    generator = load_generator(tmp_path / "netG.pth")
    assert not generator.training and generator.sizes == [64, 128, 256]
    stage = generator.refinements[0]
    assert stage.refinement == ("memory" if name.startswith("dmgan") else "attention")
    assert len(stage.residual) == (3 if name.endswith("coco") else 2)
    if stage.refinement == "memory":
        assert stage.memory.detach_mean
    assert_same(release_generator(generator), state)


@pytest.mark.parametrize("configuration", ["dmgan_bird", "dmgan_coco"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_discriminators_load_and_go_back_to_the_same_names(configuration, stage, tmp_path):
    """With their spectral norms' vectors."""
    shapes = json.loads((DATA / f"{configuration}.keys.json").read_text())["discriminators"][stage]
    state = random_state(shapes)
    torch.save(state, tmp_path / "netD.pth")
    discriminator = load_discriminator(tmp_path / "netD.pth", 64 * 2**stage)
    assert_same(release_discriminator(discriminator), state)


def test_text_encoders_load(released, tmp_path):
    """With the words of their captions.pickle."""
    _, shapes = released
    state = random_state(shapes["text_encoder"])
    torch.save(state, tmp_path / "text_encoder.pth")
    words = len(state["encoder.weight"])
    encoder, vocabulary = load_text_encoder(tmp_path / "text_encoder.pth", write_captions(tmp_path / "a.pickle", words))
    assert len(vocabulary) == words and not encoder.training
    assert_same(encoder.state_dict(), state)


@pytest.fixture(params=["dmgan", "attngan"])
def small(request, tmp_path):
    """Generator and text encoder of small released weights, from files as the releases have them, and their vectors."""
    vectors = load_file(DATA / f"{request.param}_tiny.safetensors")
    for part in ("G", "E"):
        state = {name[2:]: w.float() if w.ndim else w for name, w in vectors.items() if name.startswith(f"{part}.")}
        torch.save(state, tmp_path / f"{part}.pth")
    encoder, _ = load_text_encoder(tmp_path / "E.pth", write_captions(tmp_path / "captions.pickle", 50))
    return load_generator(tmp_path / "G.pth"), encoder, vectors


def assert_close(ours, theirs, step=1):
    """Equal to the precision that the released vectors are stored in; they hold every ``step``-th position."""
    tolerance = 2e-3 if theirs.dtype == torch.float16 else 1e-4
    torch.testing.assert_close(ours[..., ::step, ::step], theirs.float(), atol=tolerance, rtol=0)


@torch.no_grad()
def test_released_captions_give_the_released_features(small):
    _, encoder, vectors = small
    words, sentence = encoder(vectors["captions"], torch.full((3,), 7))
    torch.testing.assert_close(words.transpose(1, 2), vectors["words"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sentence, vectors["sent"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_released_weights_give_the_released_images(small):
    generator, _, vectors = small
    words = vectors["words"].transpose(1, 2)
    mask = torch.ones(3, 7, dtype=torch.bool)
    output = generator(
        vectors["z"], vectors["sent"], words, mask, condition_noise=CONDITION_MEAN, return_attention=True
    )
    assert_close(output.images[0], vectors["img64"])
    assert_close(output.images[1], vectors["img128"], step=2)
    assert_close(output.images[2], vectors["img256"], step=2)
    assert_close(output.attention[1], vectors["att128"], step=4)
    torch.testing.assert_close(output.mu, vectors["mu"])
    torch.testing.assert_close(output.log_variance, vectors["logvar"])


@torch.no_grad()
def test_released_weights_give_the_released_images_of_shorter_captions(small):
    """One batch of captions of different lengths equals the release's images computed one by one."""
    generator, encoder, vectors = small
    words, sentence = encoder(vectors["captions"], vectors["masked_lens"])
    torch.testing.assert_close(sentence, vectors["masked_sent"], atol=1e-5, rtol=0)
    torch.testing.assert_close(words.transpose(1, 2), vectors["masked_words"], atol=1e-5, rtol=0)
    mask = word_mask(vectors["masked_lens"], 7)
    output = generator(vectors["z"], sentence, words, mask, condition_noise=CONDITION_MEAN)
    assert_close(output.images[2], vectors["masked256"], step=2)
