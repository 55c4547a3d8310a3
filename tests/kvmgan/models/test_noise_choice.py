"""How fast pictures change with their noise, and which noise is taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kvmgan.models.generator import Generator
from kvmgan.models.inference import for_inference
from kvmgan.models.noise_choice import change_rate, steadiest

SIZES = {"stages": 2, "base_size": 16, "width": 4, "noise_dim": 6, "condition_dim": 5, "sentence_dim": 7, "word_dim": 7}


@pytest.fixture
def generator() -> Generator:
    """In float64, with weights of some contrast, and statistics that aren't those it began with."""
    torch.manual_seed(0)
    made = Generator(**SIZES).double()
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    made(*(torch.randn(8, *shape, dtype=torch.float64) for shape in ((6,), (7,), (3, 7))))
    return made.eval()


def given(count: int) -> dict[str, Tensor]:
    return {
        "sentence": torch.randn(count, 7, dtype=torch.float64),
        "condition_noise": torch.randn(count, 5, dtype=torch.float64),
    }


def test_the_first_image_is_that_of_the_whole_generator(generator):
    """Of a copy made ready to draw with, too."""
    noise, own = torch.randn(3, 6, dtype=torch.float64), given(3)
    words = torch.randn(3, 4, 7, dtype=torch.float64)
    whole = generator(noise, own["sentence"], words, condition_noise=own["condition_noise"]).images[0]
    torch.testing.assert_close(generator.first_image(noise, **own), whole, rtol=0, atol=0)
    torch.testing.assert_close(for_inference(generator).first_image(noise, **own), whole)


@pytest.mark.parametrize("directions", [1, 3, 6])
def test_of_a_map_that_stretches_all_directions_alike(directions):
    """Three times an isometry of six dimensions: 6 * 9, whatever the directions."""
    basis = torch.linalg.qr(torch.randn(48, 6, dtype=torch.float64))[0]
    noise = torch.randn(5, 6, dtype=torch.float64)
    rate = change_rate(lambda own: (own @ (3 * basis).T).unflatten(1, (3, 4, 4)), noise, directions=directions)
    torch.testing.assert_close(rate, torch.full((5,), 54.0, dtype=torch.float64))


def test_of_a_generator_against_autograd(generator):
    """With every direction only the steps' length is left of the error: a few percent of a rate."""
    noise, own = torch.randn(12, 6, dtype=torch.float64), given(12)
    exact = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda z, row=row: generator.first_image(
                    z[None], **{name: part[row, None] for name, part in own.items()}
                ),
                noise[row],
            )
            .square()
            .sum()
            for row in range(12)
        ]
    )
    with torch.no_grad():
        found = change_rate(lambda z: generator.first_image(z, **own), noise, directions=6)
        few = change_rate(lambda z: generator.first_image(z, **own), noise)
    assert ((found / exact).log().abs() < 0.1).all()
    # Four directions of six say less, and still tell fast from slow.
    assert torch.corrcoef(torch.stack((few, exact)))[0, 1] > 0.7
    assert exact.max() > 1.5 * exact.min()


def test_directions_are_the_same_on_every_call_and_leave_torch_alone():
    state = torch.get_rng_state()
    noise = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    first, again = (change_rate(lambda own: own.exp()[:, :, None, None], noise, directions=2) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(state, torch.get_rng_state())


def test_the_slowest_is_taken_and_the_first_of_equal_ones():
    """Pictures that turn from one side to the other where the first number is zero: the farthest from it."""

    def first_image(noise: Tensor, sentence: Tensor, condition_noise: Tensor) -> Tensor:
        return torch.tanh(4 * noise[:, :1] * sentence)[:, :, None, None]

    noises = torch.tensor([[[0.1, 0.0], [-1.5, 1.0], [0.4, 2.0]], [[0.7, 0.0], [-0.7, 1.0], [0.7, 2.0]]])
    ones = torch.ones(2, 1)
    chosen = steadiest(SimpleNamespace(first_image=first_image), noises, ones, ones)
    assert chosen[0].tolist() == [-1.5, 1.0]
    still = steadiest(SimpleNamespace(first_image=first_image), noises, 0 * ones, ones)
    assert torch.equal(still, noises[:, 0])


def test_one_noise_is_taken_unseen():
    """No picture is drawn for it."""
    noises = torch.randn(3, 1, 6)
    assert torch.equal(steadiest(None, noises, torch.randn(3, 7), torch.randn(3, 5)), noises[:, 0])
