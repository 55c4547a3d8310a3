"""The fused CPU kernels against the yardstick of tests/support/kvmem_accuracy.py, and the eager form's own error."""

from itertools import product

import pytest
import torch
from kvmem_accuracy import (
    DTYPES,
    FORMATS,
    SHAPES,
    assert_accurate,
    mask_and_format_variants,
    option_variants,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_over_masks_and_formats(make_problem, shape, dtype, extension):
    assert_accurate(make_problem, *shape, dtype=dtype, variants=mask_and_format_variants(), backend="cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("write_gate_width", ["scalar", "vector"])
@pytest.mark.parametrize("response_gate_width", ["scalar", "vector"])
def test_options(make_problem, write_gate_width, response_gate_width, dtype, extension):
    variants = option_variants(write_gate_width, response_gate_width)
    assert_accurate(make_problem, dtype=dtype, variants=variants, backend="cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ["odd N", "N=1", "T=128", "C=13", "B=1"])
def test_every_instruction_set(make_problem, isa, shape, dtype):
    variants = [
        {
            "mask": "one image masked",
            "channels_last": channels_last,
            "write_gate_width": width,
            "response_gate_width": width,
        }
        for channels_last, width in product(FORMATS, ("scalar", "vector"))
    ]
    assert_accurate(make_problem, *SHAPES[shape], dtype=dtype, variants=variants, backend="cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", ["scalar", "vector"])
def test_memories_that_are_made_row_by_row(make_problem, isa, width, dtype):
    """As large as it takes for an image's words, memory, keys and values to be several tasks each."""
    variants = [{"mask": "partial", "write_gate_width": width}]
    assert_accurate(make_problem, 2, 100, (5, 5), 40, 70, 150, dtype=dtype, variants=variants, backend="cpu")


def test_large_scores_do_not_overflow(make_problem, backend):
    """Scores in the thousands give a one-hot attention, not NaN: the softmax subtracts its maximum."""
    problem = make_problem()
    key_weight = problem.weights["key_weight"] * 1e4
    problem = problem.with_inputs(
        [problem.image, problem.words, *({**problem.weights, "key_weight": key_weight}.values())]
    )
    problem = problem.leaves()
    out, attention = problem.run(backend, return_attention=True)
    out.sum().backward()
    assert attention.isfinite().all()
    torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
    assert all(tensor.grad.isfinite().all() for tensor in problem.inputs.values())


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
def test_eager_errs_by_rounding_alone(make_problem, dtype):
    """The reference itself, in every dtype, is within a few dozen roundings of its float64 result."""
    problem = make_problem(*SHAPES["the paper's"], mask="partial", dtype=dtype)
    out, attention = problem.run("eager", return_attention=True)
    exact_out, exact_attention = problem.to(torch.float64).run("eager", return_attention=True)
    tolerance = 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact_out, rtol=0, atol=tolerance * exact_out.abs().max().item())
    torch.testing.assert_close(attention.double(), exact_attention, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_beyond_float16(make_problem, backend, dtype):
    """One slot's logit is 90,000, the others' are 0: attention is 1 there in every type, and gradients are finite."""
    problem = make_problem(1, 4, (2, 3), 3, 5, dtype=dtype)
    for name, weight in problem.weights.items():
        weight.zero_()
        if name in ("key_bias", "gate_word"):
            weight.fill_(300 if name == "key_bias" else 20)
    image = torch.full_like(problem.image, 75)
    # The first slot's key alone stays: the others' words close the write gate, and what the image writes is 0.
    words = torch.full_like(problem.words, -1)
    words[:, 0] = 1
    problem.weights["write_word_bias"].fill_(1)
    problem.weights["key_weight"].fill_(300 / 8)
    problem.weights["key_bias"].zero_()
    problem = problem.with_inputs([image, words, *problem.weights.values()]).leaves()
    out, attention = problem.run(backend, return_attention=True)
    assert attention[0, :, 0, 0].tolist() == [1, 0, 0]
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in problem.inputs.values())
