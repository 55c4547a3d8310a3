"""The adversarial losses."""

import pytest
import torch
import torch.nn.functional as F

from kvmgan.losses.adversarial import discriminator_loss, generator_loss
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
