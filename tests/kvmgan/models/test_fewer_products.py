"""The generator's forms that need fewer products, against the network written out plainly, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvmgan.models import enlargement
from kvmgan.models.blocks import ResidualBlock, UpsampleBlock
from kvmgan.models.enlargement import FEW_POSITIONS, enlarging_conv
from kvmgan.models.generator import Generator
from kvmgan.models.refinement import RefinementStage

# (batch, height, width) below and above FEW_POSITIONS, where enlarging_conv changes its form.
FEW, MANY = (2, 5, 3), (2, 13, 11)
FORMATS = [torch.contiguous_format, torch.channels_last]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def plain_norm(features: Tensor, norm: nn.Module) -> Tensor:
    return F.batch_norm(features, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def plain_residual(block: ResidualBlock, features: Tensor) -> Tensor:
    hidden = F.conv2d(features, block.conv1.weight, padding=1)
    hidden = F.glu(plain_norm(hidden, block.norm1), dim=1)
    return features + plain_norm(F.conv2d(hidden, block.conv2.weight, padding=1), block.norm2)


def plain_upsample(block: UpsampleBlock, features: Tensor) -> Tensor:
    enlarged = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return F.glu(plain_norm(F.conv2d(enlarged, block.conv.weight, padding=1), block.norm), dim=1)


def plain_stage(stage: RefinementStage, features: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    if stage.refinement == "memory":
        response = stage.memory(features, words, mask)
        features = torch.cat((response, response), dim=1)
    elif stage.refinement == "attention":
        features = torch.cat((features, stage.attention(features, words, mask)[0]), dim=1)
    else:
        features = torch.cat((features, features), dim=1)
    for block in stage.residual:
        features = plain_residual(block, features)
    return plain_upsample(stage.upsample, features)


def plain_images(
    generator: Generator, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, condition_noise: Tensor
) -> list[Tensor]:
    mu, log_variance = F.glu(
        F.linear(sentence, generator.conditioning.fc.weight, generator.conditioning.fc.bias)
    ).chunk(2, 1)
    condition = mu + condition_noise * (log_variance / 2).exp()
    initial = generator.initial
    hidden = F.linear(torch.cat((condition, noise), dim=1), initial.fc.weight)
    features = F.glu(plain_norm(hidden, initial.norm), dim=1).reshape(len(noise), -1, 4, 4)
    for block in initial.blocks:
        features = plain_upsample(block, features)
    images = [generator.heads[0].conv(features).tanh()]
    for stage, head in zip(generator.refinements, generator.heads[1:], strict=True):
        features = plain_stage(stage, features, words, mask)
        images.append(head.conv(features).tanh())
    return images


def assert_same_with_gradients(actual: list[Tensor], expected: list[Tensor], inputs: list[Tensor]) -> None:
    """Values, and gradients with respect to every input, of which none may be zero."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    upstream = [torch.randn_like(tensor) for tensor in expected]
    actual_gradients = torch.autograd.grad(actual, inputs, upstream)
    expected_gradients = torch.autograd.grad(expected, inputs, upstream)
    assert all(gradient.any() for gradient in expected_gradients)
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("shape", "transposed"), [(FEW, False), (MANY, True), ((1, 16, 16), True), ((1, 1, 1), False)])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_enlarging_conv_is_nearest_enlargement_then_convolution(shape, transposed, memory_format):
    """At the borders too; one transposed convolution from FEW_POSITIONS on."""
    batch, height, width = shape
    assert transposed == (batch * height * width >= FEW_POSITIONS)
    features = random(batch, 3, height, width).to(memory_format=memory_format).requires_grad_()
    weight = random(6, 3, 3, 3).to(memory_format=memory_format).requires_grad_()
    actual = enlarging_conv(features, weight)
    assert actual.grad_fn._saved_transposed is transposed
    enlarged = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert_same_with_gradients([actual], [F.conv2d(enlarged, weight, padding=1)], [features, weight])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positions", [1, 33, 40, 70])
def test_the_kernels_gradient_in_strips_is_the_whole_one(monkeypatch, positions, dtype):
    """Strips of 1, 3, 3 and 6 of 13 rows: every row is first or last somewhere, and a last strip is a single row."""
    monkeypatch.setattr(enlargement, "STRIP_POSITIONS", positions)
    features = random(*MANY).unsqueeze(1).repeat(1, 3, 1, 1) * random(2, 3, 1, 1)
    features = features.to(dtype, memory_format=torch.channels_last).requires_grad_()
    weight = random(6, 3, 3, 3).to(dtype).requires_grad_()
    actual = enlarging_conv(features, weight)
    assert type(actual.grad_fn).__name__ == "_StripwiseTransposedConvBackward"
    enlarged = features.double().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = F.conv2d(enlarged, weight.double(), padding=1)
    upstream = random(*expected.shape)
    wanted = torch.autograd.grad(expected, [features, weight], upstream)
    # A gradient that comes in the other order, too.
    for order in FORMATS:
        given = upstream.to(dtype, memory_format=order)
        found = torch.autograd.grad(actual, [features, weight], given, retain_graph=True)
        tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(found, wanted, **tolerance)


def test_strips_are_for_channels_last_in_more_than_16_bits_where_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(enlargement, "STRIP_POSITIONS", 1)
    features, weight = torch.randn(2, 3, 13, 11), torch.randn(6, 3, 3, 3, requires_grad=True)
    channels_last = features.to(memory_format=torch.channels_last)

    def form(given: Tensor) -> str:
        return type(enlarging_conv(given, weight).grad_fn).__name__

    assert form(channels_last).startswith("_Stripwise")
    assert form(features) == "ConvolutionBackward0"
    with torch.autocast("cpu", torch.bfloat16):
        assert form(channels_last) == "ConvolutionBackward0"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert form(channels_last) == "ConvolutionBackward0"


def test_a_second_derivative_through_strips_is_refused(monkeypatch):
    monkeypatch.setattr(enlargement, "STRIP_POSITIONS", 1)
    features = torch.randn(2, 3, 13, 11).to(memory_format=torch.channels_last).requires_grad_()
    output = enlarging_conv(features, torch.randn(6, 3, 3, 3))
    (first,) = torch.autograd.grad(output.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("shape", [FEW, MANY])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("make_block", "plain"), [(ResidualBlock, plain_residual), (lambda width: UpsampleBlock(width, 4), plain_upsample)]
)
def test_doubled_features_are_the_features_twice(make_block, plain, shape, memory_format):
    batch, height, width = shape
    block = make_block(6).double().to(memory_format=memory_format)
    features = random(batch, 3, height, width).to(memory_format=memory_format).requires_grad_()
    actual = block(features, doubled=True)
    assert actual.is_contiguous(memory_format=memory_format)
    expected = plain(block, torch.cat((features, features), dim=1))
    assert_same_with_gradients([actual], [expected], [features, *block.parameters()])


@pytest.mark.parametrize("refinement", ["memory", "attention", "none"])
@pytest.mark.parametrize("residual_blocks", [0, 1, 2])
@pytest.mark.parametrize("shape", [FEW, MANY])
def test_stage_is_the_plain_stage(captions, refinement, residual_blocks, shape):
    batch, height, width = shape
    stage = RefinementStage(4, 12, refinement=refinement, residual_blocks=residual_blocks).double()
    features, words = random(batch, 4, height, width).requires_grad_(), random(batch, 7, 12).requires_grad_()
    mask = captions.mask[:batch]
    inputs = [features, *stage.parameters()] + ([words] if refinement != "none" else [])
    actual, _ = stage(features, words, mask)
    assert_same_with_gradients([actual], [plain_stage(stage, features, words, mask)], inputs)


@pytest.mark.parametrize("refinement", ["memory", "attention", "none"])
@pytest.mark.parametrize("residual_blocks", [0, 1])
def test_generator_is_the_plain_generator(captions, refinement, residual_blocks):
    """With both forms of enlarging_conv: there are 64 positions at 4x4, 256 at 8x8."""
    sizes = {"width": 4, "noise_dim": 6, "condition_dim": 5, "sentence_dim": 12, "word_dim": 12}
    generator = Generator(base_size=16, **sizes, refinement=refinement, residual_blocks=residual_blocks).double()
    inputs, condition_noise = (random(4, 6), random(4, 12), random(4, 7, 12), captions.mask), random(4, 5)
    actual = generator(*inputs, condition_noise=condition_noise).images
    expected = plain_images(generator, *inputs, condition_noise)
    assert_same_with_gradients(actual, expected, list(generator.parameters()))


@pytest.mark.parametrize(("refinement", "first_width"), [("memory", 4), ("none", 4), ("attention", 8)])
@pytest.mark.parametrize("residual_blocks", [0, 1])
def test_what_comes_in_twice_is_convolved_once(captions, monkeypatch, refinement, first_width, residual_blocks):
    """Plainly, the first convolution has 2C = 8 input channels whatever comes in."""
    stage = RefinementStage(4, 12, refinement=refinement, residual_blocks=residual_blocks)
    convolve, widths = F.conv2d, []

    def record(features, *arguments, **options):
        # The attention embeds the words with a 1x1 convolution.
        widths.extend([features.shape[1]] if features.shape[1] != 12 else [])
        return convolve(features, *arguments, **options)

    monkeypatch.setattr(F, "conv2d", record)
    stage(torch.randn(4, 4, 5, 3), captions.words, captions.mask)
    assert widths == [first_width, *[8, 8] * residual_blocks]
