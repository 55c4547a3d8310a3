"""The CUDA kernels' source, run on the CPU, against the yardstick of tests/support/kvmem_accuracy.py."""

from itertools import product

import pytest
import torch
from kvmem_accuracy import DTYPES, MASKS, assert_accurate, mask_and_format_variants, option_variants
from kvmem_problems import make_problem
from kvmem_smooth import make_smooth_problem

# batch, channels, (height, width), slots, word channels, memory channels
SHAPES = {
    "odd N": (2, 16, (5, 7), 6, 12, 32),
    "N=1": (3, 16, (1, 1), 5, 8, 16),
    "T=1": (2, 16, (4, 6), 1, 8, 16),
    "T=128": (2, 32, (7, 9), 128, 16, 32),
    "C=13": (2, 13, (6, 5), 7, 9, 11),
    "C=200": (2, 200, (6, 7), 77, 24, 40),
    "C=64": (2, 64, (16, 16), 18, 32, 128),
    "C=64, odd N": (2, 64, (5, 7), 18, 16, 32),
    "C=64, N=1": (3, 64, (1, 1), 5, 8, 16),
    "C=64, T=1": (2, 64, (4, 6), 1, 8, 128),
    "C=64, T=23": (1, 64, (9, 16), 23, 12, 40),
    "C=64, T=32": (1, 64, (9, 16), 32, 12, 40),
    "C=64, T=33": (1, 64, (8, 8), 33, 16, 32),
    "C=64, odd D and M": (2, 64, (8, 8), 12, 13, 11),
    "the paper's": (1, 64, (32, 32), 18, 256, 128),
}


def own_path(problem, channels_last=None):
    """The path that a problem on aligned addresses takes on sm_90."""
    image = problem.image
    channels_last = not image.is_contiguous() if channels_last is None else channels_last
    slots = 23 if image.dtype == torch.float32 else 32
    fits = image.shape[1] == 64 and problem.words.shape[1] <= slots and len(problem.weights["response_gate_bias"]) == 1
    whole_vectors = image[0, 0].numel() * image.itemsize % 16 == 0
    return "cluster" if fits and (channels_last or whole_vectors) else "general"


class WithPath:
    """Calls the layer and asserts which path both passes took: the given one, or the problem's own."""

    def __init__(self, layer, path=None):
        self.layer, self.path = layer, path

    def __call__(self, problem, attention, grads):
        found = self.layer(problem, attention, grads)
        path = self.path or own_path(problem, self.layer.channels_last)
        assert (self.layer.forward["path"], self.layer.backward["path"]) == (path, path)
        return found


def draws(dtype):
    """In float32 a single draw may hold one large error of either form, where two scores are close."""
    return 3 if dtype == torch.float32 else 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_over_masks_and_formats(layer, shape, dtype):
    """Every shape on the path that it takes by itself."""
    variants, backend = mask_and_format_variants(), WithPath(layer)
    assert_accurate(make_smooth_problem, *shape, dtype=dtype, variants=variants, backend=backend, draws=draws(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [name for name, shape in SHAPES.items() if shape[1] == 64])
def test_the_general_path_takes_all_that_the_cluster_path_does(layer, general_path, shape, dtype):
    variants = [{"mask": "partial", "channels_last": channels_last} for channels_last in (False, True)]
    backend = WithPath(layer, "general")
    assert_accurate(
        make_smooth_problem, *SHAPES[shape], dtype=dtype, variants=variants, backend=backend, draws=draws(dtype)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("write_gate_width", ["scalar", "vector"])
@pytest.mark.parametrize("response_gate_width", ["scalar", "vector"])
@pytest.mark.parametrize("channels", [16, 64])
def test_options(layer, write_gate_width, response_gate_width, dtype, channels):
    variants = option_variants(write_gate_width, response_gate_width)
    shape = (2, channels, (4, 8), 6, 12, 32)
    backend = WithPath(layer)
    assert_accurate(make_smooth_problem, *shape, dtype=dtype, variants=variants, backend=backend, draws=draws(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("largest_cluster", [1, 4])
def test_images_that_do_not_fit_on_chip(layer, device, largest_cluster, dtype):
    """15 tiles of 64 positions over too little shared memory: the cluster path reads part of the image again."""
    device("small sm_90, 32 bit" if dtype == torch.float32 else "small sm_90, 16 bit", largest_cluster)
    variants = [{"mask": "partial", "channels_last": channels_last} for channels_last in (False, True)]
    backend = WithPath(layer, "cluster")
    shape = (2, 64, (30, 32), 18, 16, 32)
    assert_accurate(make_smooth_problem, *shape, dtype=dtype, variants=variants, backend=backend, draws=draws(dtype))


@pytest.mark.parametrize("name", ["sm_80", "sm_86"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_older_devices(layer, device, name, dtype):
    """No clusters there, and less shared memory: the general path, with the largest C and T as well."""
    device(name)
    backend = WithPath(layer, "general")
    for shape in ((2, 64, (5, 7), 18, 16, 32), (1, 512, (3, 3), 128, 8, 8)):
        variants = [{"mask": "partial", "channels_last": channels_last} for channels_last in (False, True)]
        assert_accurate(
            make_smooth_problem, *shape, dtype=dtype, variants=variants, backend=backend, draws=draws(dtype)
        )
    widths = {"write_gate_width": "vector", "response_gate_width": "vector"}
    shape = (1, 512, (3, 3), 128, 8, 8)
    assert_accurate(make_smooth_problem, *shape, dtype=dtype, variants=[widths], backend=backend, draws=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [16, 64])
def test_tensors_cut_out_of_larger_ones(layer, channels, dtype):
    """Inputs that lie one element past an aligned address."""
    layer.misalignment = 1
    variants = [{"mask": "partial", "channels_last": channels_last} for channels_last in (False, True)]
    shape = (2, channels, (4, 8), 6, 16, 32)
    assert_accurate(
        make_smooth_problem,
        *shape,
        dtype=dtype,
        variants=variants,
        backend=WithPath(layer, "general"),
        draws=draws(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [16, 64])
def test_one_position_channels_last(layer, channels, dtype):
    """At N=1 both formats are the same bytes; the kernels may be told either."""
    layer.channels_last = True
    variants = [{"mask": mask} for mask in MASKS]
    shape, backend = (3, channels, (1, 1), 5, 8, 16), WithPath(layer)
    assert_accurate(make_smooth_problem, *shape, dtype=dtype, variants=variants, backend=backend, draws=draws(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [16, 64])
def test_large_scores_do_not_overflow(layer, channels, dtype):
    """Scores in the thousands give a one-hot attention, not NaN: the softmax subtracts its maximum."""
    problem = make_problem(2, channels, (4, 8), 6, 12, 32, mask="one image masked", dtype=dtype)
    weights = {**problem.weights, "key_weight": problem.weights["key_weight"] * 1e3}
    problem = problem.with_inputs([problem.image, problem.words, *weights.values()])
    grads = [torch.ones_like(problem.image), torch.ones(2, 6, 4, 8)]
    found = layer(problem, True, grads)
    assert all(tensor.isfinite().all() for tensor in found.values())
    tolerance = {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(found["attention"][1].float().sum(0), torch.ones(4, 8), **tolerance)
    assert not found["attention"][0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels, channels_last", list(product([16, 64], [False, True])))
def test_what_stands_in_masked_slots_does_not_matter(layer, channels, channels_last, dtype):
    """Not even NaN: the same bits as with zeros there, and a gradient of zero."""
    problem = make_problem(2, channels, (4, 8), 6, 12, 32, mask="partial", dtype=dtype, channels_last=channels_last)
    _, *weights = list(problem.inputs.values())[1:]
    empty = ~problem.mask.unsqueeze(2)
    grads = [torch.ones_like(problem.image), torch.ones(2, 6, 4, 8)]
    found = [
        layer(problem.with_inputs([problem.image, problem.words.masked_fill(empty, fill), *weights]), True, grads)
        for fill in (0.0, torch.nan)
    ]
    for name, expected in found[0].items():
        assert torch.equal(found[1][name], expected), name
    assert not found[1]["gradient of words"][empty.expand_as(problem.words)].any()
