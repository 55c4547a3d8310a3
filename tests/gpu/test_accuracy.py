"""The kernels against the yardstick of tests/support/kvmem_accuracy.py: CUDA's on both of their paths, and Triton's."""

from itertools import product

import pytest
import torch
from kvmem_accuracy import DTYPES, FORMATS, SHAPES, assert_accurate, mask_and_format_variants, option_variants
from kvmem_problems import WIDE, widening

# What the CUDA kernels for clusters of blocks take: 64 channels and at most 31 slots.
# batch, channels, (height, width), slots, word channels, memory channels
CLUSTER_SHAPES = {
    "stage two": (2, 64, (64, 64), 18, 256, 128),
    "stage three": (1, 64, (128, 128), 12, 256, 128),
    "many images": (150, 64, (8, 8), 5, 16, 128),
    "C=64, N=1": (2, 64, (1, 1), 5, 9, 128),
    "C=64, odd N": (3, 64, (9, 13), 31, 33, 128),
    "C=64, T=1": (2, 64, (16, 24), 1, 8, 128),
    "C=64, T=32": (2, 64, (16, 24), 32, 8, 128),
    "C=64, odd M and D": (2, 64, (16, 24), 18, 13, 77),
}
# What the tuned Triton kernels take at the most, and one slot more.
EDGE_SHAPES = {"C=64, T=63": (2, 64, (9, 13), 63, 8, 24), "C=64, T=64": (2, 64, (9, 13), 64, 8, 24)}
LARGE_SHAPES = {"C=512": (1, 512, (9, 10), 40, 20, 48), "T=77": (2, 64, (32, 32), 77, 64, 128)}
ALL_SHAPES = {**SHAPES, **CLUSTER_SHAPES, **EDGE_SHAPES, **LARGE_SHAPES}
CHANNELS = {"cluster": 64, "large": 80}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_shapes_over_masks_and_formats(make_problem, kernels, shape, dtype):
    sizes, variants = ALL_SHAPES[shape], mask_and_format_variants()
    assert_accurate(make_problem, *sizes, dtype=dtype, variants=variants, backend=kernels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS.keys())
@pytest.mark.parametrize("write_gate_width", ["scalar", "vector"])
@pytest.mark.parametrize("response_gate_width", ["scalar", "vector"])
def test_options(make_problem, kernels, channels, write_gate_width, response_gate_width, dtype):
    variants = option_variants(write_gate_width, response_gate_width)
    assert_accurate(make_problem, 2, channels, dtype=dtype, variants=variants, backend=kernels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels, slots", [(13, 7), (64, 7), (64, 64), (70, 7)], ids=str)
def test_vector_gates_over_formats(make_problem, kernels, channels, slots, dtype):
    variants = [
        {"mask": "one image masked", "channels_last": channels_last, "response_gate_width": response, **WRITE[write]}
        for channels_last, response, write in product(FORMATS, ("scalar", "vector"), WRITE)
    ]
    assert_accurate(make_problem, 2, channels, (9, 7), slots, dtype=dtype, variants=variants, backend=kernels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wide", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize("shape", ["stage two", "C=64, odd M and D", "C=13", "T=128"])
def test_words_and_weights_in_float32(make_problem, kernels, shape, wide, dtype):
    """Beside an image of 16 bits, as under autocast."""
    variants = [{"mask": "partial", "channels_last": channels_last} for channels_last in FORMATS]
    assert_accurate(widening(make_problem, wide), *ALL_SHAPES[shape], dtype=dtype, variants=variants, backend=kernels)


WRITE = {"scalar": {"write_gate_width": "scalar"}, "vector": {"write_gate_width": "vector"}}


def test_tuned_tiles_of_triton_are_as_accurate_as_the_fixed_ones(make_problem, triton_kernels, monkeypatch):
    monkeypatch.setenv("KVMEM_TRITON_AUTOTUNE", "1")
    variants = [{"mask": "partial"}]
    assert_accurate(make_problem, 2, 64, (32, 32), 18, dtype=torch.bfloat16, variants=variants, backend="triton")


def test_float32_is_not_rounded_to_tf32_where_the_framework_forbids_it(make_problem, kernels):
    """As by default: a number of tf32 has 10 bits of fraction, and errs by a thousandth."""
    assert not torch.backends.cuda.matmul.allow_tf32
    problem = make_problem(2, 64, (32, 32), 18, 256, 128)
    exact = problem.to(torch.float64).run("eager")
    error = (problem.run(kernels).double() - exact).abs().max()
    assert error < 1e-5 * exact.abs().max()


def test_large_scores_do_not_overflow(make_problem, kernels):
    """Scores in the thousands give a one-hot attention, not NaN: the softmax subtracts its maximum."""
    for channels in CHANNELS.values():
        problem = make_problem(channels=channels)
        weights = {**problem.weights, "key_weight": problem.weights["key_weight"] * 1e4}
        problem = problem.with_inputs([problem.image, problem.words, *weights.values()]).leaves()
        out, attention = problem.run(kernels, return_attention=True)
        out.sum().backward()
        assert attention.isfinite().all()
        torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
        assert all(tensor.grad.isfinite().all() for tensor in problem.inputs.values())


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_stands_in_a_slot_without_a_word_does_not_matter(make_problem, kernels, dtype, garbage):
    """Neither an output nor a gradient changes by a bit, and the gradient of such a slot is zero."""
    for channels in CHANNELS.values():
        clean = make_problem(3, channels, mask="one image masked", dtype=dtype).leaves()
        words = clean.words.detach().masked_fill(~clean.mask[:, :, None], garbage)
        dirty = clean.with_inputs([clean.image, words, *clean.weights.values()]).leaves()
        results = []
        for problem in (clean, dirty):
            out, attention = problem.run(kernels, return_attention=True)
            loss = out.square().sum() + attention.square().sum()
            results.append((out, attention, *torch.autograd.grad(loss, list(problem.inputs.values()))))
        for expected, found in zip(*results, strict=True):
            assert found.isfinite().all()
            assert torch.equal(found, expected)
        grad_words = results[1][3]
        assert not grad_words[~clean.mask].any()


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS.keys())
def test_no_slots_at_all_is_as_if_none_held_a_word(make_problem, kernels, channels):
    problem = make_problem(channels=channels, slots=0).leaves()
    masked = make_problem(channels=channels, slots=3, mask="all masked")
    masked = masked.with_inputs([problem.image, masked.words, *problem.weights.values()])
    out = problem.run(kernels)
    torch.testing.assert_close(out, masked.run(kernels))
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in problem.inputs.values())


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS.keys())
def test_an_empty_batch_gives_an_empty_result(make_problem, kernels, channels):
    problem = make_problem(batch=0, channels=channels).leaves()
    out, attention = problem.run(kernels, return_attention=True)
    assert out.shape == (0, channels, 5, 7)
    assert attention.shape == (0, 6, 5, 7)
    out.sum().backward()
    assert not problem.weights["key_weight"].grad.any()
