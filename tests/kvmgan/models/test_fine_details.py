"""Details that a discriminator sees beside the pictures."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from kvmgan.losses.adversarial import discriminator_loss, gradient_penalty
from kvmgan.models.discriminator import Discriminator
from kvmgan.models.fine_details import FineDetails


def test_details_are_those_of_a_loop_over_pixels():
    """Borders and corners among them: the mean there is of the pixels that there are."""
    images = torch.rand(2, 3, 5, 4, dtype=torch.float64) * 2 - 1
    seen = FineDetails(8.0)(images)
    assert seen.shape == (2, 6, 5, 4) and torch.equal(seen[:, :3], images)
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, images.shape)).tolist():
        around = images[n, c, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        expected = math.tanh(8.0 * (images[n, c, y, x] - around.sum() / around.numel()))
        assert seen[n, 3 + c, y, x].item() == pytest.approx(expected, abs=1e-12)


def test_gradients_are_those_of_finite_differences():
    images = torch.randn(1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FineDetails(2.0), images)
    assert torch.autograd.gradgradcheck(FineDetails(2.0), images)


def test_a_discriminator_without_them_is_the_released_one():
    plain, seeing = (
        Discriminator(16, width=2, sentence_dim=5),
        Discriminator(16, width=2, sentence_dim=5, detail_gain=8),
    )
    shapes, more = ({name: tuple(p.shape) for name, p in net.state_dict().items()} for net in (plain, seeing))
    assert {name for name in shapes if shapes[name] != more[name]} == {
        "trunk.0.parametrizations.weight.original",
        "trunk.0.parametrizations.weight.0._v",
    } and shapes.keys() == more.keys()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(plain.eval()(images), plain.trunk(images))


@pytest.mark.parametrize("gain", [0.0, 8.0])
def test_computed_again_the_features_and_their_gradients_are_the_same(gain):
    images = torch.randn(2, 3, 32, 32)
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        net = Discriminator(32, width=2, sentence_dim=5, detail_gain=gain, checkpoint_activations=again)
        own = images.clone().requires_grad_()
        features = net(own)
        features.square().sum().backward()
        found.append([features, own.grad, *(p.grad for p in net.trunk.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_penalty_is_by_the_pictures_themselves():
    """Against the squared gradient by hand, of pictures one by one."""
    torch.manual_seed(0)
    net = Discriminator(16, width=2, sentence_dim=5, detail_gain=8).double().eval()
    real, sentence = torch.randn(3, 3, 16, 16).double(), torch.randn(3, 5).double()
    total = 0.0
    for image, own in zip(real.split(1), sentence.split(1), strict=True):
        image, own = image.clone().requires_grad_(), own.clone().requires_grad_()
        features = net(image)
        logit = net.unconditional(features) + net.conditional(features, own)
        total += sum(g.square().sum() for g in torch.autograd.grad(logit.sum(), (image, own)))
    assert gradient_penalty(net, real, sentence).item() == pytest.approx(total.item() / 6, rel=1e-9)


def _squares(count: int, grid: float) -> Tensor:
    """Flat squares of random colours on flat grounds, under a grid of so many levels of 255 (every other column)."""
    colours = torch.rand(count, 2, 3, 1, 1) * 2 - 1
    places = torch.randint(2, 8, (count,))
    images = colours[:, 0].expand(-1, -1, 16, 16).clone()
    for image, colour, place in zip(images, colours[:, 1], places.tolist(), strict=True):
        image[:, place : place + 6, place : place + 6] = colour
    images[..., ::2] += grid / 127.5
    return images


def _told_apart(gain: float) -> float:
    """Share of pairs, of a clean picture and one with a grid, of which the clean one is held for more real."""
    torch.manual_seed(0)
    net = Discriminator(16, width=4, sentence_dim=2, detail_gain=gain)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999))
    for _ in range(60):
        with parametrize.cached():
            clean, faulty = (net.unconditional(net(_squares(32, grid))) for grid in (0, 2))
        loss = F.softplus(-clean).mean() + F.softplus(faulty).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        clean, faulty = (net.eval().unconditional(net(_squares(300, grid))) for grid in (0, 2))
    return (clean[:, None] > faulty).float().mean().item()


def test_a_faint_grid_is_seen_with_them_and_hardly_without():
    assert _told_apart(8.0) > 0.95
    assert _told_apart(0.0) < 0.75


def test_rounding_to_16_bits_tells_no_picture_apart():
    """A drawing in float32 and the same picture as a generator under autocast would give it have one probability."""
    torch.manual_seed(0)
    net = Discriminator(16, width=4, sentence_dim=2, detail_gain=8)
    real, sentence = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), parametrize.cached():
        _, figures = discriminator_loss(net, real, real.to(torch.bfloat16), sentence, sentence)
    assert figures["real_probability"] == figures["fake_probability"]
