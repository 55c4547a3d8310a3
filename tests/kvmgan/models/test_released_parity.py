"""The released AttnGAN and DM-GAN networks are these networks under other names."""

import pytest
import torch

from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.text_encoder import TextEncoder, word_mask


def without_ones(shape) -> list[int]:
    """A shape without the kernel dimensions that tell a 1x1 convolution from a linear layer."""
    shape = list(shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return shape


def test_generator_has_every_released_parameter_in_its_shape(released_shapes, rename_released):
    released = {rename_released(name): shape for name, shape in released_shapes["generator"].items()}
    with torch.device("meta"):
        ours = Generator().state_dict()
    assert released.keys() == ours.keys()
    for name, shape in released.items():
        assert without_ones(ours[name].shape) == without_ones(shape), name


SIXTEENFOLD = [f"img_code_s16.{i}" for i in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    ("stage", "layers"),
    [
        (0, SIXTEENFOLD),
        (1, [*SIXTEENFOLD, "img_code_s32.0", "img_code_s32_1.0"]),
        (2, [*SIXTEENFOLD, "img_code_s32.0", "img_code_s64.0", "img_code_s64_1.0", "img_code_s64_2.0"]),
    ],
)
def test_discriminator_has_every_released_parameter_in_its_shape(released_shapes, stage, layers):
    normalised = {f"{layer}.module.": f"trunk.{2 * i}." for i, layer in enumerate(layers)}
    normalised["COND_DNET.jointConv.0.module."] = "joint."
    parts = {
        "weight_bar": "parametrizations.weight.original",
        "weight_u": "parametrizations.weight.0._u",
        "weight_v": "parametrizations.weight.0._v",
        "bias": "bias",
    }
    names = {theirs + p: ours + q for theirs, ours in normalised.items() for p, q in parts.items()}
    for p in ("weight", "bias"):
        names[f"UNCOND_DNET.outlogits.0.{p}"] = f"unconditional_head.{p}"
        names[f"COND_DNET.outlogits.0.{p}"] = f"conditional_head.{p}"
    released = {names[name]: shape for name, shape in released_shapes["discriminators"][stage].items()}
    with torch.device("meta"):
        ours = Discriminator(64 * 2**stage, width=32).state_dict()
    assert {name: list(tensor.shape) for name, tensor in ours.items()} == released


def test_text_encoder_has_the_released_names_and_shapes(released_shapes):
    ours = {name: list(tensor.shape) for name, tensor in TextEncoder(50).state_dict().items()}
    assert ours == released_shapes["text_encoder"]


# The released code drew its condition; the vectors were made with the mean in its place.
CONDITION_MEAN = torch.zeros(3, 100)


@pytest.fixture
def released_models(released_vectors, rename_released):
    """Generator and text encoder with the small released weights, in evaluation mode."""
    family, vectors = released_vectors
    refinement = {"dmgan": "memory", "attngan": "attention"}[family]
    generator = Generator(width=4, sentence_dim=32, word_dim=32, refinement=refinement)
    shapes = {name: tensor.shape for name, tensor in generator.state_dict().items()}
    weights = {rename_released(name[2:]): tensor for name, tensor in vectors.items() if name.startswith("G.")}
    generator.load_state_dict({n: w.float().reshape(shapes[n]) if w.ndim else w for n, w in weights.items()})
    encoder = TextEncoder(50, word_dim=32)
    encoder.load_state_dict({n[2:]: w.float() for n, w in vectors.items() if n.startswith("E.")})
    return generator.eval(), encoder.eval(), vectors


def assert_close(ours, released, step=1):
    """Equal to the precision that the released vectors are stored in; they hold every ``step``-th position."""
    tolerance = 2e-3 if released.dtype == torch.float16 else 1e-4
    torch.testing.assert_close(ours[..., ::step, ::step], released.float(), atol=tolerance, rtol=0)


@torch.no_grad()
def test_released_captions_give_the_released_features(released_models):
    _, encoder, vectors = released_models
    words, sentence = encoder(vectors["captions"], torch.full((3,), 7))
    torch.testing.assert_close(words.transpose(1, 2), vectors["words"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sentence, vectors["sent"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_released_weights_give_the_released_images(released_models):
    generator, _, vectors = released_models
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
    torch.testing.assert_close(output.logvar, vectors["logvar"])


@torch.no_grad()
def test_released_weights_give_the_released_images_of_shorter_captions(released_models):
    """One batch of captions of different lengths equals the release's images computed one by one."""
    generator, encoder, vectors = released_models
    words, sentence = encoder(vectors["captions"], vectors["masked_lens"])
    torch.testing.assert_close(sentence, vectors["masked_sent"], atol=1e-5, rtol=0)
    torch.testing.assert_close(words.transpose(1, 2), vectors["masked_words"], atol=1e-5, rtol=0)
    mask = word_mask(vectors["masked_lens"], 7)
    output = generator(vectors["z"], sentence, words, mask, condition_noise=CONDITION_MEAN)
    assert_close(output.images[2], vectors["masked256"], step=2)
