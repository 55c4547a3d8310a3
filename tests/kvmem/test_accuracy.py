"""The yardstick: against the float64 reference, the fused kernels err at most twice as much as the eager form does.

Both run in the same dtype on the same (rounded) inputs. Errors are the largest one and the root mean square, over all
elements of a tensor in many draws: rounding errors are random, so one draw of a tensor with few elements says little.
For the same reason there is a floor, in units in the last place of the tensor's largest value.
"""

from itertools import product

import pytest
import torch

DRAWS = 4
FACTOR = 2
FLOOR_ULPS = {"largest": 4, "root mean square": 0.5}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# batch, channels, (height, width), slots, word channels, memory channels
SHAPES = {
    "odd N": (2, 16, (5, 7), 6, 12, 32),
    "N=1": (3, 16, (1, 1), 5, 8, 16),
    "T=1": (2, 16, (4, 6), 1, 8, 16),
    "T=128": (2, 32, (7, 9), 128, 16, 32),
    "C=13": (2, 13, (6, 5), 7, 9, 11),
    "C=200": (2, 200, (6, 7), 77, 24, 40),
    "B=1": (1, 64, (17, 31), 18, 32, 128),
    "the paper's": (2, 64, (32, 32), 18, 256, 128),
}
MASKS = ["none", "partial", "one image masked", "all masked"]
FORMATS = [False, True]


def results(problem, backend, attention, grads):
    """Outputs and gradients by name, for given gradients of the outputs."""
    problem = problem.leaves()
    outputs = problem.run(backend, return_attention=attention)
    outputs = outputs if attention else (outputs,)
    dtype = problem.image.dtype
    grads = [grad.to(dtype) for grad in grads[: len(outputs)]]
    gradients = torch.autograd.grad(outputs, list(problem.inputs.values()), grads)
    found = dict(zip(("out", "attention"), outputs, strict=False))
    return {**found, **{f"gradient of {name}": g for name, g in zip(problem.inputs, gradients, strict=True)}}


class Errors:
    """Of one tensor, over the draws: largest and root mean square error, and the largest value."""

    def __init__(self) -> None:
        self.largest = self.largest_value = 0.0
        self.means: list[float] = []

    def add(self, found, exact):
        difference = (found.double() - exact).abs()
        assert difference.isfinite().all()
        self.largest = max(self.largest, difference.max().item())
        self.means.append(difference.square().mean().item())
        self.largest_value = max(self.largest_value, exact.abs().max().item())

    def by_kind(self):
        return {"largest": self.largest, "root mean square": (sum(self.means) / len(self.means)) ** 0.5}


def measure(problem, attention, seed, eager_errors, fused_errors):
    """One draw: adds the errors of both backends to those of the draws before, by name of the tensor."""
    generator = torch.Generator().manual_seed(seed)
    dtype = problem.image.dtype
    batch, _, height, width = problem.image.shape
    shapes = (problem.image.shape, (batch, problem.words.shape[1], height, width))
    grads = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    exact = results(problem.to(torch.float64), "eager", attention, grads)
    for backend, errors in (("eager", eager_errors), ("cpu", fused_errors)):
        for name, found in results(problem, backend, attention, grads).items():
            assert found.dtype == dtype
            assert found.shape == exact[name].shape
            errors.setdefault(name, Errors()).add(found, exact[name])


def assert_accurate(make_problem, *shape, dtype, variants):
    """The cpu backend against the eager one in the same dtype, over some draws of every variant.

    A variant is settings of the problem. Every second draw asks for the attention and its gradient too.
    """
    eager_errors, fused_errors = {}, {}
    for seed, (settings, draw) in enumerate(product(variants, range(DRAWS))):
        problem = make_problem(*shape, dtype=dtype, seed=seed, **settings)
        measure(problem, draw % 2 == 1, seed, eager_errors, fused_errors)
    failures = []
    for name, eager in eager_errors.items():
        floor = torch.finfo(dtype).eps * eager.largest_value
        for kind, eager_error in eager.by_kind().items():
            fused_error = fused_errors[name].by_kind()[kind]
            if fused_error > FACTOR * eager_error + FLOOR_ULPS[kind] * floor:
                failures.append(f"{name}: {kind} error {fused_error:.2e}, the eager form's {eager_error:.2e}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_over_masks_and_formats(make_problem, shape, dtype, extension):
    variants = [{"mask": mask, "channels_last": channels_last} for mask, channels_last in product(MASKS, FORMATS)]
    assert_accurate(make_problem, *shape, dtype=dtype, variants=variants)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("write_gate_width", ["scalar", "vector"])
@pytest.mark.parametrize("response_gate_width", ["scalar", "vector"])
def test_options(make_problem, write_gate_width, response_gate_width, dtype, extension):
    widths = {"write_gate_width": write_gate_width, "response_gate_width": response_gate_width}
    options = product(("sigmoid", "linear"), ("relu", "identity"), (False, True))
    variants = [
        {"mask": "partial", "write_gate": write_gate, "activation": activation, "detach_mean": detach_mean, **widths}
        for write_gate, activation, detach_mean in options
    ]
    assert_accurate(make_problem, dtype=dtype, variants=variants)


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
    assert_accurate(make_problem, *SHAPES[shape], dtype=dtype, variants=variants)


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
