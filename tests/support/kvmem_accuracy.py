"""The yardstick: against the float64 reference, the fused kernels err at most twice as much as the eager form does.

Both run in the same dtype on the same (rounded) inputs; beside an image of 16 bits and words and weights in float32,
everything is cast to the image's type for the eager form, and gradients back. Errors are the largest one and the root
mean square, over all elements of a tensor in many draws: rounding errors are random, so one draw of a tensor with few
elements says little. For the same reason there is a floor, in units in the last place of the tensor's largest value.
"""

from itertools import product

import torch

DRAWS = 4
FACTOR = 2
LOOKED_AGAIN = 6
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
    """Outputs and gradients by name, for given gradients of the outputs.

    backend: the name of one, or a function that does this in its own way.
    """
    if callable(backend):
        return backend(problem, attention, grads)
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


def nearby(problem, seed):
    """The same problem but for a unit in the last place of the image: rounded elsewhere, just as hard."""
    generator = torch.Generator().manual_seed(seed)
    image = problem.image
    step = torch.randn(image.shape, generator=generator).to(image.device, image.dtype) * torch.finfo(image.dtype).eps
    return problem.with_inputs([image + image * step, *list(problem.inputs.values())[1:]])


def type_of(problem, name):
    """Of a result: outputs have the image's type, a gradient that of what it belongs to."""
    return problem.inputs.get(name.removeprefix("gradient of "), problem.image).dtype


def measure(problem, backend, attention, seed, eager_errors, fused_errors, neighbours=0):
    """One draw: adds the errors of eager and backend to those of the draws before, by name of the tensor.

    neighbours: how many problems that hardly differ the eager form is run on besides.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = problem.image.dtype
    batch, _, height, width = problem.image.shape
    shapes = (problem.image.shape, (batch, problem.slots, height, width))
    grads = [torch.randn(shape, generator=generator).to(problem.image.device, dtype) for shape in shapes]

    def add(problem, forms):
        exact = results(problem.to(torch.float64), "eager", attention, grads)
        for form, errors in forms:
            for name, found in results(problem, form, attention, grads).items():
                assert found.dtype == type_of(problem, name)
                assert found.shape == exact[name].shape
                errors.setdefault(name, Errors()).add(found, exact[name])

    add(problem, [("plain", eager_errors), (backend, fused_errors)])
    for neighbour in range(neighbours):
        add(nearby(problem, neighbour), [("plain", eager_errors)])


def assert_accurate(make_problem, *shape, dtype, variants, backend, draws=DRAWS, neighbours=0):
    """A backend against the eager one in the same dtype, over some draws of every variant.

    A variant is settings of the problem. Half of the draws ask for the attention and its gradient too. Where a draw of
    the backend takes long, neighbours stand for more draws of the eager form: one draw alone may be lucky. Where that
    isn't enough (a gradient that is a sum over slots or images has but one or two rounding errors for all of its
    elements), an error that is found must show over LOOKED_AGAIN times as many draws too.
    """
    eager_errors, fused_errors = {}, {}
    for first in range(0, draws * LOOKED_AGAIN, draws):
        for number, (settings, _) in enumerate(product(variants, range(draws))):
            seed = first * len(variants) + number
            problem = make_problem(*shape, dtype=dtype, seed=seed, **settings)
            attention = (seed + seed // 2) % 2 == 1
            measure(problem, backend, attention, seed, eager_errors, fused_errors, neighbours)
        if first == 0 and not _failures(eager_errors, fused_errors, dtype):
            return
    failures = _failures(eager_errors, fused_errors, dtype)
    assert not failures, "\n".join(failures)


def _failures(eager_errors, fused_errors, dtype):
    """A line for every tensor whose error is too large."""
    failures = []
    for name, eager in eager_errors.items():
        floor = torch.finfo(dtype).eps * eager.largest_value
        for kind, eager_error in eager.by_kind().items():
            fused_error = fused_errors[name].by_kind()[kind]
            if fused_error > FACTOR * eager_error + FLOOR_ULPS[kind] * floor:
                failures.append(f"{name}: {kind} error {fused_error:.2e}, the eager form's {eager_error:.2e}")
    return failures


def mask_and_format_variants():
    return [{"mask": mask, "channels_last": channels_last} for mask, channels_last in product(MASKS, FORMATS)]


def option_variants(write_gate_width, response_gate_width):
    """Every combination of the other options, for these widths of the gates."""
    widths = {"write_gate_width": write_gate_width, "response_gate_width": response_gate_width}
    options = product(("sigmoid", "linear"), ("relu", "identity"), (False, True))
    return [
        {"mask": "partial", "write_gate": write_gate, "activation": activation, "detach_mean": detach_mean, **widths}
        for write_gate, activation, detach_mean in options
    ]
