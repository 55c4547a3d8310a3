"""The layer computes the four steps of its specification, checked against loops written from the formulas."""

from itertools import product

import numpy as np
import pytest
import torch

OPTIONS = [
    dict(zip(("write_gate", "write_gate_width", "response_gate_width", "activation"), values, strict=True))
    for values in product(("sigmoid", "linear"), ("scalar", "vector"), ("scalar", "vector"), ("relu", "identity"))
]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loops(problem):
    """Response (B, C, N) and attention (B, T, N), one position, one slot at a time, in float64."""
    weight = {name: tensor.double().numpy() for name, tensor in problem.weights.items()}
    image, words = problem.image.double().flatten(2).numpy(), problem.words.double().numpy()
    (batch, channels, positions), slots = image.shape, words.shape[1]
    mask = np.ones((batch, slots), bool) if problem.mask is None else problem.mask.numpy()
    phi = (lambda x: np.maximum(x, 0)) if problem.options.get("activation") != "identity" else (lambda x: x)
    gate = sigmoid if problem.options.get("write_gate") != "linear" else (lambda x: x)
    out, attention = np.zeros((batch, channels, positions)), np.zeros((batch, slots, positions))
    for b in range(batch):
        r = sum(image[b, :, n] for n in range(positions)) / positions
        keys, values = {}, {}
        for t in np.flatnonzero(mask[b]):
            g = gate(weight["gate_word"] @ words[b, t] + weight["gate_image"] @ r)
            from_word = phi(weight["write_word_weight"] @ words[b, t] + weight["write_word_bias"])
            from_image = phi(weight["write_image_weight"] @ r + weight["write_image_bias"])
            m = g * from_word + (1 - g) * from_image
            keys[t] = phi(weight["key_weight"] @ m + weight["key_bias"])
            values[t] = phi(weight["value_weight"] @ m + weight["value_bias"])
        for n in range(positions):
            h = image[b, :, n]
            exponentials = {t: np.exp(key @ h) for t, key in keys.items()}
            o = np.zeros(channels)
            for t, exponential in exponentials.items():
                attention[b, t, n] = exponential / sum(exponentials.values())
                o += attention[b, t, n] * values[t]
            gamma = sigmoid(weight["response_gate_weight"] @ np.concatenate([h, o]) + weight["response_gate_bias"])
            out[b, :, n] = (1 - gamma) * h + gamma * o
    return out, attention


@pytest.mark.parametrize("mask", ["none", "partial", "one image masked"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_every_option_matches_the_loops(make_problem, backend, options, mask):
    problem = make_problem(2, 5, (2, 3), 4, 3, 7, mask=mask, dtype=torch.float64, **options)
    out, attention = problem.run(backend, return_attention=True)
    expected_out, expected_attention = loops(problem)
    np.testing.assert_allclose(out.flatten(2).numpy(), expected_out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(attention.flatten(2).numpy(), expected_attention, rtol=1e-12, atol=1e-12)


def test_detach_mean_keeps_the_values_and_stops_the_gradient_through_the_mean(make_problem, backend):
    """With detach_mean the gradient of the image is that of the layer whose mean is a constant."""
    attached = make_problem(mask="partial", dtype=torch.float64).leaves()
    detached = make_problem(mask="partial", dtype=torch.float64, detach_mean=True).leaves()
    out = attached.run(backend)
    assert torch.equal(detached.run(backend), out)
    grad_out = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    (with_mean,) = torch.autograd.grad(out, attached.image, grad_out)
    (without_mean,) = torch.autograd.grad(detached.run(backend), detached.image, grad_out)
    # The mean spreads evenly over the positions: so the difference is the same at all of them, and not zero.
    difference = (with_mean - without_mean).flatten(2)
    torch.testing.assert_close(difference, difference[..., :1].expand_as(difference))
    assert difference.abs().max() > 1e-6


def test_attention_sums_to_one_over_the_words_and_is_zero_elsewhere(make_problem, backend):
    problem = make_problem(3, mask="one image masked")
    _, attention = problem.run(backend, return_attention=True)
    assert attention.shape == (3, 6, 5, 7)
    sums = attention.sum(1)
    torch.testing.assert_close(sums[1:], torch.ones_like(sums[1:]))
    empty = ~problem.mask[:, :, None, None].expand_as(attention)
    assert torch.equal(attention[empty], torch.zeros_like(attention[empty]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_an_image_without_words_keeps_its_gated_features(make_problem, backend, dtype):
    """Where no slot holds a word the response is zero, so out = (1 - gamma) h: no NaN, nor in any gradient."""
    problem = make_problem(mask="one image masked", dtype=dtype).leaves()
    out, attention = problem.run(backend, return_attention=True)
    assert torch.equal(attention[0], torch.zeros_like(attention[0]))
    h = problem.image[0].detach().flatten(1).double()
    weight = problem.weights["response_gate_weight"].detach().double()[:, :16]
    gamma = torch.sigmoid(weight @ h + problem.weights["response_gate_bias"].detach().double())
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(out[0].flatten(1).double(), (1 - gamma) * h, rtol=tolerance, atol=tolerance)
    (out.sum() + attention.square().sum()).backward()
    for name, tensor in problem.inputs.items():
        assert tensor.grad.isfinite().all(), name
    assert torch.equal(problem.words.grad[0], torch.zeros_like(problem.words.grad[0]))


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")], ids=str)
def test_what_stands_in_a_slot_without_a_word_does_not_matter(make_problem, backend, garbage):
    """Neither an output nor a gradient changes by a bit, and the gradient of such a slot is zero."""
    clean = make_problem(mask="one image masked").leaves()
    words = clean.words.detach().masked_fill(~clean.mask[:, :, None], garbage)
    dirty = clean.with_inputs([clean.image, words, *clean.weights.values()]).leaves()
    results = []
    for problem in (clean, dirty):
        out, attention = problem.run(backend, return_attention=True)
        grads = torch.autograd.grad(out.square().sum() + attention.square().sum(), list(problem.inputs.values()))
        results.append((out, attention, *grads))
    for expected, found in zip(*results, strict=True):
        assert torch.equal(found, expected)
    grad_words = results[1][3]
    assert torch.equal(grad_words[~clean.mask], torch.zeros_like(grad_words[~clean.mask]))


def test_no_slots_at_all_is_as_if_none_held_a_word(make_problem, backend):
    problem = make_problem(slots=0).leaves()
    masked = make_problem(slots=3, mask="all masked")
    masked = masked.with_inputs([problem.image, masked.words, *problem.weights.values()])
    out = problem.run(backend)
    torch.testing.assert_close(out, masked.run(backend))
    out.sum().backward()
    assert problem.image.grad.isfinite().all()


def test_an_empty_batch_gives_an_empty_result(make_problem, backend):
    problem = make_problem(batch=0).leaves()
    out, attention = problem.run(backend, return_attention=True)
    assert out.shape == (0, 16, 5, 7)
    assert attention.shape == (0, 6, 5, 7)
    out.sum().backward()
    assert torch.equal(problem.weights["key_weight"].grad, torch.zeros_like(problem.weights["key_weight"]))
