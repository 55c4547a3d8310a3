"""`memory_read` on a GPU, CUDA's kernels and Triton's: accuracy, launches, both directions fused."""

import pytest
import torch
from kvmem_accuracy import DTYPES, FORMATS, assert_accurate
from kvmem_problems import NAMESPACES, CalledOperators
from kvmem_read_problems import GATES, make_read_problem

DEVICE = "cuda:0"
# batch, channels, (height, width), slots
SHAPES = {
    "odd N": (2, 16, (5, 7), 6),
    "N=1": (3, 16, (1, 1), 5),
    "T=128": (2, 32, (7, 9), 128),
    "C=13": (2, 13, (6, 5), 7),
    "C=64": (4, 64, (64, 64), 18),
    "C=512": (1, 512, (9, 10), 40),
}


def on_gpu(*shape, **settings):
    return make_read_problem(*shape, **settings).on(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_accuracy(backend, shape, gate, dtype):
    variants = [
        {"gate": gate, "mask": mask, "channels_last": last} for last in FORMATS for mask in ("none", "one image masked")
    ]
    assert_accurate(on_gpu, *shape, dtype=dtype, variants=variants, backend=backend)


@pytest.mark.parametrize("gate", GATES)
def test_the_operators_run_once_each_way(backend, gate):
    problem = on_gpu(2, 64, (16, 16), 18, gate=gate, mask="partial").leaves()
    with CalledOperators() as called:
        torch.autograd.grad(problem.run(backend).sum(), list(problem.inputs.values()))
    namespace = NAMESPACES[backend]
    names = [name for name in called.names if name.startswith("kvmem")]
    assert names == [f"{namespace}::memory_read", f"{namespace}::memory_read_backward"]


@pytest.mark.parametrize("gate", GATES)
def test_launches(backend, gate, launches):
    """Forward at most three, all of them our own."""
    problem = on_gpu(2, 64, (16, 16), 18, gate=gate, mask="partial")
    found = launches(lambda: problem.run(backend))
    assert len(found) <= 3 and all("memory" in name or "general" in name or "pack_tables" in name for name in found)


@pytest.mark.parametrize("gate", GATES)
def test_the_same_bits_every_time(backend, gate):
    problem = on_gpu(3, 64, (24, 24), 18, gate=gate, mask="partial").leaves()

    def bits():
        out, attention = problem.run(backend, return_attention=True)
        return [out, *torch.autograd.grad(out.sum() + attention.square().sum(), list(problem.inputs.values()))]

    first = bits()
    for _ in range(3):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(bits(), first, strict=True))
