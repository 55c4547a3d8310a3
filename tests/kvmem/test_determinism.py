"""The same inputs give the same bits: run after run, on any number of threads, whatever the memory held before."""

import os
import subprocess
import sys
from pathlib import Path

import kvmem_checks
import pytest
import torch
from kvmem_problems import bits
from torch.profiler import profile

import kvmem

SHAPES = {
    "many positions": (2, 64, (40, 41), 18, 32),
    "many images": (9, 16, (3, 5), 7, 12),
    "one image": (1, 16, (37, 29), 5, 12),
}


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_runs_and_threads_do_not_change_a_bit(make_problem, extension, restored_threads, shape, channels_last, dtype):
    problem = make_problem(*shape, mask="partial", dtype=dtype, channels_last=channels_last)
    expected = bits(problem, "cpu")
    for threads in (1, 2, 2, 3, 1):
        torch.set_num_threads(threads)
        for found, reference in zip(bits(problem, "cpu"), expected, strict=True):
            assert torch.equal(found, reference), f"{threads} threads"


def test_eager_runs_do_not_change_a_bit(make_problem):
    problem = make_problem(mask="partial")
    for found, reference in zip(bits(problem, "eager"), bits(problem, "eager"), strict=True):
        assert torch.equal(found, reference)


@pytest.fixture
def poisoned_memory():
    """New tensors are filled with NaN before anything is written to them."""
    with kvmem_checks.poisoned_memory():
        yield


def test_the_poison_reaches_the_extension(make_problem, extension, poisoned_memory):
    problem = make_problem()
    with profile() as profiler:
        problem.run("cpu")
    counts = {event.key: event.count for event in profiler.key_averages()}
    assert counts["aten::fill_"] == counts["aten::empty"] >= 3


@pytest.mark.parametrize("mask", ["none", "one image masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_nothing_is_read_before_it_is_written(make_problem, backend, poisoned_memory, mask, dtype):
    assert torch.empty(3).isnan().all()
    for shape in SHAPES.values():
        problem = make_problem(*shape, mask=mask, dtype=dtype)
        poisoned = bits(problem, backend)
        torch.utils.deterministic.fill_uninitialized_memory = False
        for found, reference in zip(poisoned, bits(problem, backend), strict=True):
            assert torch.equal(found, reference)
        torch.utils.deterministic.fill_uninitialized_memory = True


DIGEST = """
import hashlib, torch, kvmem
torch.manual_seed(0)
layer = kvmem.KVMemoryLayer(13, 9, backend="cpu")
image, words = torch.randn(3, 13, 11, 7, requires_grad=True), torch.randn(3, 5, 9)
mask = torch.tensor([[True] * 5, [False] * 5, [True, False, True, False, False]])
out, attention = layer(image, words, mask, return_attention=True)
(out.square().sum() + attention.square().sum()).backward()
for tensor in (out, attention, image.grad, *(p.grad for p in layer.parameters())):
    print(hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest())
"""


def test_scratch_memory_is_written_before_it_is_read(extension):
    """glibc fills every block that it hands out with a byte: two different ones give the same bits."""
    command, folder = [sys.executable, "-c", DIGEST], Path(kvmem.__file__).parents[1]
    environments = [{**os.environ, "MALLOC_PERTURB_": byte} for byte in ("0", "128")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment)
        for environment in environments
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs[0].splitlines()) == 15
    assert outputs[0] == outputs[1]
