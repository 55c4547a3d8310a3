"""The networks under torch.compile: one graph in training mode, the values and gradients of the eager networks."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kvmgan.models.discriminator import Discriminator
from kvmgan.models.generator import Generator
from kvmgan.models.image_encoder import SmallImageEncoder
from kvmgan.models.refinement import RefinementStage

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def assert_compiled_trains_alike(
    network: nn.Module, run: Callable[[nn.Module], list[Tensor]], inputs: list[Tensor], **how: object
) -> None:
    """Outputs, gradients of parameters and inputs, and buffers, for a twin compiled without a graph break."""
    twin = copy.deepcopy(network)
    compiled = torch.compile(twin, fullgraph=True, **how)
    expected, actual = run(network), run(compiled)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    upstream = [torch.randn_like(output) for output in expected]
    expected_gradients = torch.autograd.grad(expected, [*network.parameters(), *inputs], upstream)
    actual_gradients = torch.autograd.grad(actual, [*twin.parameters(), *inputs], upstream)
    for mine, theirs in zip(actual_gradients, expected_gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
    torch.testing.assert_close(dict(twin.named_buffers()), dict(network.named_buffers()), rtol=1e-4, atol=1e-5)


def test_compiled_generator_trains_as_the_eager_one(captions):
    """With the memory layer inside; in one graph."""
    sizes = {"stages": 2, "base_size": 8, "width": 4, "noise_dim": 6, "condition_dim": 5}
    generator = Generator(**sizes, sentence_dim=12, word_dim=12, residual_blocks=1)
    noise, condition_noise, words = torch.randn(4, 6), torch.randn(4, 5), captions.words.requires_grad_()

    def run(network):
        return network(noise, captions.sentence, words, captions.mask, condition_noise=condition_noise).images

    assert_compiled_trains_alike(generator, run, [words], backend="aot_eager")


# Inductor's scalar code is built in half the time of its vector code; a residual block would double it.
SCALAR = {"backend": "inductor", "options": {"cpp.simdlen": 0}}


def test_refinement_by_generated_code_trains_as_the_eager_one(captions):
    """The memory layer between what Inductor makes; a whole generator would take a minute and a half."""
    stage = RefinementStage(4, 12, residual_blocks=0)
    features, words = torch.randn(4, 4, 8, 8, requires_grad=True), captions.words.requires_grad_()

    def run(network):
        return [network(features, words, captions.mask)[0]]

    assert_compiled_trains_alike(stage, run, [features, words], **SCALAR)


class Verdicts(nn.Module):
    """Both logits of a discriminator, in one call that can be compiled."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor, sentence: Tensor) -> list[Tensor]:
        features = self.discriminator(images)
        return [self.discriminator.unconditional(features), self.discriminator.conditional(features, sentence)]


@pytest.mark.parametrize(
    ("order", "gain"),
    [(torch.contiguous_format, 0.0), (torch.contiguous_format, 8.0), (torch.channels_last, 8.0)],
    ids=["contiguous", "contiguous, details", "channels_last, details"],
)
def test_compiled_discriminator_trains_as_the_eager_one(order, gain):
    """Its spectral norms move on by one power iteration a forward, as in eager mode."""
    images, sentence = torch.randn(3, 3, 16, 16), torch.randn(3, 12, requires_grad=True)
    images = images.contiguous(memory_format=order).requires_grad_()
    verdicts = Verdicts(Discriminator(16, width=2, sentence_dim=12, detail_gain=gain))
    # Away from the orthogonal start, where the power iteration has nothing to do.
    for parameter in verdicts.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert_compiled_trains_alike(verdicts, lambda network: network(images, sentence), [images, sentence], **SCALAR)


@pytest.mark.parametrize(
    ("order", "size"),
    [(torch.contiguous_format, 48), (torch.channels_last, 32)],
    ids=["contiguous, resized", "channels_last"],
)
def test_compiled_image_encoder_gives_the_eager_ones_gradients(order, size):
    """By the pictures too, which generators are trained by, in either order in memory."""
    images = torch.randn(3, 3, size, size).contiguous(memory_format=order).requires_grad_()
    encoder = SmallImageEncoder(feature_dim=4, width=2, input_size=32)
    assert_compiled_trains_alike(encoder, lambda network: list(network(images)), [images], **SCALAR)
