"""Random numbers by purpose: no two streams are alike, equal arguments give equal numbers, nothing else moves."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from kvmgan.random_streams import normal_noise, numpy_stream, torch_stream

CPU = torch.device("cpu")
SEEDS = (0, 1, 12345, 2**32, 2**32 + 1, 2**63 - 1)
PURPOSES = ("train order", "train sample", "damsm order", "noise", "")
POSITIONS = (
    *((), (0,), (1,), (2**32,), (2**32 + 1,), (2**63 - 1,)),
    *((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (1, 2**32), (2**32, 1)),
    *((0, 0, 0), (0, 0, 1), (1, 2, 3), (3, 2, 1)),
)


def test_no_two_streams_are_alike() -> None:
    """Seed, purpose, position, its order and its length all tell streams apart, beyond 32 bits, too."""
    arguments = list(itertools.product(SEEDS, PURPOSES, POSITIONS))
    drawn = {numpy_stream(seed, purpose, *position).bytes(16) for seed, purpose, position in arguments}
    assert len(drawn) == len(arguments) == 6 * 5 * 18


def test_neighbours_have_nothing_in_common() -> None:
    """The first numbers of the streams of successive seeds, and of successive steps, are uncorrelated."""
    for streams in (
        [numpy_stream(seed, "noise", 0) for seed in range(2000)],
        [numpy_stream(0, "noise", step) for step in range(2000)],
    ):
        first = np.array([stream.random() for stream in streams])
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08
        assert abs(first.mean() - 0.5) < 0.03


def test_equal_arguments_give_equal_numbers() -> None:
    """Whatever was drawn before, by this package, numpy or torch."""
    first = numpy_stream(7, "train sample", 3, 9).random(5)
    noise = normal_noise((2, 3), 7, "noise", 3)
    np.random.random(3), torch.rand(3), numpy_stream(7, "train sample", 3, 9).random(50)
    assert np.array_equal(numpy_stream(7, "train sample", 3, 9).random(5), first)
    assert torch.equal(normal_noise((2, 3), 7, "noise", 3), noise)
    assert np.array_equal(numpy_stream(np.int64(7), "train sample", np.int64(3), np.int64(9)).random(5), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, "noise"), "seed is -1, expected 0 to"),
        ((2**63, "noise"), "seed is 9223372036854775808, expected 0 to"),
        ((0, "noise", -1), "position is -1, expected 0 to"),
        ((0, "noise", 4, 2**63), "position is 9223372036854775808, expected 0 to"),
    ],
)
def test_numbers_out_of_range_are_named(arguments: tuple, message: str) -> None:
    """A negative or too large seed or position is refused by all three kinds of stream."""
    with pytest.raises(ValueError, match=message):
        numpy_stream(*arguments)
    with pytest.raises(ValueError, match=message):
        normal_noise((1,), *arguments)
    with pytest.raises(ValueError, match=message), torch_stream(CPU, *arguments):
        pass


def test_noise_is_standard_normal() -> None:
    """Of the shape asked for, float32, on the CPU, mean 0, deviation 1, and normal, not uniform."""
    noise = normal_noise((40, 50, 10), 3, "noise", 1)
    assert noise.shape == (40, 50, 10)
    assert noise.dtype == torch.float32
    assert noise.device == CPU
    # Six standard errors of 20,000 numbers.
    assert abs(float(noise.mean())) < 0.043
    assert abs(float(noise.std()) - 1.0) < 0.03
    assert abs(float((noise.abs() < 1.0).float().mean()) - 0.6827) < 0.02
    assert not torch.equal(noise, normal_noise((40, 50, 10), 3, "noise", 2))


def draw_with_torch(seed: int, purpose: str, *position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the initial weights of a layer and a dropout mask that are drawn in a stream."""
    with torch_stream(CPU, seed, purpose, *position):
        return nn.Linear(4, 4).weight.detach(), nn.functional.dropout(torch.ones(64), 0.5)


def test_torch_stream_seeds_weights_and_dropout() -> None:
    """Equal arguments give equal weights and masks; another seed, purpose or position gives others."""
    weights, mask = draw_with_torch(5, "damsm", 1)
    again = draw_with_torch(5, "damsm", 1)
    assert torch.equal(weights, again[0])
    assert torch.equal(mask, again[1])
    for arguments in ((6, "damsm", 1), (2**32 + 5, "damsm", 1), (5, "train", 1), (5, "damsm", 2), (5, "damsm")):
        other = draw_with_torch(*arguments)
        assert not torch.equal(weights, other[0])
        assert not torch.equal(mask, other[1])


def test_torch_stream_gives_the_global_state_back() -> None:
    """After the context, left by its end or an error, torch draws as if it had never been; numpy is left alone."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch_stream(CPU, 1, "damsm"):
        torch.rand(10)
    assert torch.equal(torch.get_rng_state(), torch_state)
    with pytest.raises(RuntimeError, match="stop"), torch_stream(CPU, 1, "damsm"):
        torch.rand(10)
        raise RuntimeError("stop")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the state of a GPU's generator needs one")
def test_torch_stream_seeds_and_gives_back_the_gpu() -> None:
    """The GPU's generator draws from the stream inside the context and has its state back after it."""
    device = torch.device("cuda:0")
    state, drawn = torch.cuda.get_rng_state(device), []
    for _ in range(2):
        with torch_stream(device, 1, "damsm"):
            drawn.append(torch.rand(10, device=device))
    assert torch.equal(*drawn)
    assert torch.equal(torch.cuda.get_rng_state(device), state)


def test_the_numbers_of_a_stream_stay() -> None:
    """Pinned: a change of these, here or in a new numpy or torch, breaks the resuming of every run."""
    stream = numpy_stream(0, "train sample", 3, 7)
    np.testing.assert_allclose(
        stream.random(3), (0.7830119154231416, 0.8630517459819396, 0.7947126952701148), rtol=1e-15
    )
    assert stream.permutation(8).tolist() == [4, 1, 7, 3, 2, 5, 0, 6]
    assert stream.integers(1000, size=3).tolist() == [898, 582, 114]
    noise = normal_noise((3,), 0, "train sample", 3, 7)
    torch.testing.assert_close(noise, torch.tensor((-0.2257392, 0.3988845, 1.6128316)), rtol=1e-5, atol=0)
    with torch_stream(CPU, 0, "train sample", 3, 7):
        assert torch.initial_seed() == 17780823394722711779
