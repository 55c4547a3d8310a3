"""The adversarial losses."""

import pytest
import torch
import torch.nn.functional as F

from kvmgan.losses.adversarial import discriminator_loss, generator_loss, gradient_penalty
from kvmgan.models.discriminator import Discriminator


@pytest.fixture
def discriminator() -> Discriminator:
    """In evaluation mode, so that spectral norms stay the same from call to call."""
    torch.manual_seed(0)
    return Discriminator(16, width=2, sentence_dim=5).eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16), torch.randn(3, 5)


def cross_entropy(logits, target: float):
    return F.binary_cross_entropy(logits.sigmoid(), torch.full_like(logits, target))


def test_discriminator_loss_is_the_papers(discriminator, batch):
    """Against each term computed by itself; the mismatched pairs take the neighbour's image."""
    real, fake, sentence = batch
    loss, parts = discriminator_loss(discriminator, real, fake, sentence, sentence.roll(-1, dims=0))
    neighbours = torch.stack((real[2], real[0], real[1]))
    expected = {
        "real_unconditional": cross_entropy(discriminator.unconditional(discriminator(real)), 1.0),
        "real_conditional": cross_entropy(discriminator.conditional(discriminator(real), sentence), 1.0),
        "fake_unconditional": cross_entropy(discriminator.unconditional(discriminator(fake)), 0.0),
        "fake_conditional": cross_entropy(discriminator.conditional(discriminator(fake), sentence), 0.0),
        "mismatched": cross_entropy(discriminator.conditional(discriminator(neighbours), sentence), 0.0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach(), msg=name)
    real_terms = expected["real_unconditional"] + expected["real_conditional"]
    fake_terms = expected["fake_unconditional"] + expected["fake_conditional"] + expected["mismatched"]
    torch.testing.assert_close(loss, real_terms / 2 + fake_terms / 3)
    probability = discriminator.unconditional(discriminator(real)).sigmoid().mean()
    torch.testing.assert_close(parts["real_probability"], probability.detach())
    told = [
        (discriminator.unconditional(discriminator(one)).sigmoid() > 0.5) == kind
        for one, kind in ((real, 1), (fake, 0))
    ]
    assert parts["accuracy"].item() == pytest.approx(torch.cat(told).float().mean().item())


def test_generator_loss_is_the_papers(discriminator, batch):
    _, fake, sentence = batch
    loss, parts = generator_loss(discriminator, fake, sentence)
    features = discriminator(fake)
    unconditional = cross_entropy(discriminator.unconditional(features), 1.0)
    conditional = cross_entropy(discriminator.conditional(features, sentence), 1.0)
    torch.testing.assert_close(loss, unconditional + conditional)
    torch.testing.assert_close(parts["unconditional"], unconditional.detach())
    torch.testing.assert_close(parts["conditional"], conditional.detach())


def test_only_the_generator_loss_reaches_the_fake_image(discriminator, batch):
    real, fake, sentence = batch
    fake.requires_grad_()
    loss, parts = discriminator_loss(discriminator, real, fake, sentence, sentence.roll(-1, dims=0))
    loss.backward()
    assert fake.grad is None
    assert all(parameter.grad.any() for parameter in discriminator.parameters())
    assert not any(part.requires_grad for part in parts.values())
    discriminator.requires_grad_(False)
    loss, parts = generator_loss(discriminator, fake, sentence)
    loss.backward()
    assert fake.grad.flatten(1).any(dim=1).all()
    assert not any(part.requires_grad for part in parts.values())


def test_certain_logits_give_finite_losses(discriminator, batch):
    """The losses take logits: a sigmoid rounded to 0 or 1 would give infinity."""
    with torch.no_grad():
        discriminator.unconditional_head.bias.fill_(1e4)
        discriminator.conditional_head.bias.fill_(-1e4)
    assert discriminator_loss(discriminator, *batch, batch[2])[0].isfinite()
    assert generator_loss(discriminator, *batch[1:])[0].isfinite()


def test_autocast_losses_are_float32(discriminator, batch):
    discriminator.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = discriminator_loss(discriminator, *batch, batch[2])
        generator_side, _ = generator_loss(discriminator, *batch[1:])
    assert {loss.dtype, generator_side.dtype, *(part.dtype for part in parts.values())} == {torch.float32}


def test_bad_batches_are_named(discriminator, batch):
    real, fake, sentence = batch
    for given in ((real, fake[:2], sentence, sentence), (real, fake, sentence, sentence[:2])):
        sizes = ", ".join(str(len(tensor)) for tensor in given[:3])
        with pytest.raises(ValueError, match=f"batches of {sizes} and {len(given[3])}"):
            discriminator_loss(discriminator, *given)


def logits(discriminator, images, sentence):
    features = discriminator(images)
    return discriminator.unconditional(features) + discriminator.conditional(features, sentence)


def test_gradient_penalty_is_that_of_finite_differences(discriminator, batch):
    """Half the mean squared gradient by pictures and sentences, every number of both moved by itself."""
    discriminator.double()
    real, _, sentence = (given.double() for given in batch)
    squares = 0.0
    for image, own in zip(real, sentence, strict=True):
        at = torch.cat((image.flatten(), own))
        moved = torch.cat((at + 1e-5 * torch.eye(len(at)), at - 1e-5 * torch.eye(len(at))))
        images, sentences = moved.split((image.numel(), own.numel()), dim=1)
        forward, backward = logits(discriminator, images.unflatten(1, (3, 16, 16)), sentences).detach().chunk(2)
        squares += ((forward - backward) / 2e-5).square().sum() / 2
    penalty = gradient_penalty(discriminator, real, sentence)
    torch.testing.assert_close(penalty.detach(), squares / len(real), rtol=1e-5, atol=0.0)


def test_gradient_penalty_moves_the_discriminator_as_finite_differences_say(discriminator, batch):
    """Its derivative by each weight along a direction; the step is small, for the penalty jumps at the ReLUs' kinks."""
    discriminator.double()
    real, _, sentence = (given.double() for given in batch)
    weights = [parameter for parameter in discriminator.parameters() if parameter.ndim > 1]
    gradients = torch.autograd.grad(gradient_penalty(discriminator, real, sentence), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn_like(weight)
        penalties = []
        with torch.no_grad():
            for move in (1e-7, -2e-7):
                weight += move * direction
                with torch.enable_grad():
                    penalties.append(gradient_penalty(discriminator, real, sentence).detach())
            weight += 1e-7 * direction
        expected = (penalties[0] - penalties[1]) / 2e-7
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_penalty_is_computed_in_float32(discriminator, batch, dtype):
    """Under autocast, of pictures in 16 bits, and by a discriminator that computes its activations again."""
    real, _, sentence = batch
    real = real.to(dtype)
    expected = gradient_penalty(discriminator, real.float(), sentence)
    discriminator.train().checkpoint_activations = True
    for module in discriminator.modules():
        module.training = module is discriminator
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(discriminator, real, sentence)
    assert penalty.dtype == torch.float32 and penalty.item() == expected.item()
