"""The choice of the kernels for GPUs on machines that are only pretended: why they can't run, and what runs instead."""

import importlib.util
import sys

import pytest
import torch
from kvmem_problems import NAMESPACES, CalledOperators
from torch._subclasses.fake_tensor import FakeTensorMode

import kvmem
from kvmem.triton import status as triton_status

backends = sys.modules["kvmem.backends"]
H100, A10, T4, B200 = ("NVIDIA H100", (9, 0)), ("NVIDIA A10", (8, 6)), ("Tesla T4", (7, 5)), ("NVIDIA B200", (10, 0))
MI300 = ("AMD Instinct MI300X", (9, 4))


@pytest.fixture
def pretend(monkeypatch, extension):
    """A function that makes a machine up: its GPUs (name, capability), build, torch, driver and what Triton needs."""

    def forget():
        backends._cuda_missing.cache_clear()
        backends._cuda_refusal.cache_clear()
        triton_status.forget()

    def pretended(
        *gpus, built="sm_80,sm_90,compute_90", cuda="13.0", hip=None, version=13000, driver=13010,
        triton=True, compiler="/usr/bin/gcc",
    ):  # fmt: skip
        monkeypatch.setattr(backends.ops, "cuda_architectures", lambda: list(filter(None, built.split(","))))
        monkeypatch.setattr(backends, "_driver_version", lambda: driver)
        monkeypatch.setattr(backends.ops, "cuda_version", lambda: version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: gpus[index][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index][1])
        forget()

        def find_spec(name: str, *package: str) -> object:
            """Others ask for other modules meanwhile: what torch.compile imports, say."""
            return (triton or None) if name == "triton" else find_any(name, *package)

        find_any = importlib.util.find_spec
        monkeypatch.setattr(triton_status.importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(triton_status.shutil, "which", lambda name: compiler)

    monkeypatch.delenv("KVMEM_BACKEND", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    yield pretended
    monkeypatch.undo()
    forget()


UNAVAILABLE = {
    "no CUDA in the build": ((H100,), {"built": ""}, "kvmem was built without CUDA"),
    "no CUDA in torch": ((H100,), {"cuda": None}, "built for sm_80, sm_90, but torch .* is built without CUDA"),
    "no GPU": ((), {}, "built for sm_80, sm_90, but torch finds no CUDA GPU"),
    "an old driver": ((H100,), {"driver": 12080}, "built with CUDA 13, but the driver runs CUDA 12 at most: update"),
    "an old GPU": ((T4,), {}, r"not on cuda:0 \(Tesla T4\): compute capability 7.5, the kernels need 8.0 or later"),
    "a GPU not built for": ((A10,), {"built": "sm_90,compute_90"}, "compute capability 8.6, kvmem was built for sm_90"),
}


@pytest.mark.parametrize("gpus, machine, reason", UNAVAILABLE.values(), ids=UNAVAILABLE.keys())
def test_where_no_kernels_can_run_eager_runs_and_the_status_says_why(pretend, gpus, machine, reason):
    pretend(*gpus, **machine, triton=False)
    status = kvmem.backends()["cuda"]
    assert not status.available
    with pytest.raises(RuntimeError, match=f"backend 'cuda' can't run: .*{reason}"):
        kvmem.KVMemoryLayer(8, 12, backend="cuda")
    assert backends.pick_backend(None, torch.device("cuda:0")) == "eager"
    with pytest.raises(RuntimeError, match=f"backend 'cuda' can't run: .*{reason}"):
        backends.pick_backend("cuda", torch.device("cuda:0"))


@pytest.mark.parametrize("gpu", [H100, A10, B200], ids=lambda gpu: gpu[0])
def test_where_they_can_they_are_picked_and_the_status_names_the_gpu(pretend, gpu):
    """Machine code for 8.0 runs on 8.6, and the portable code of 9.0 on 10.0."""
    pretend(gpu)
    assert repr(kvmem.backends()["cuda"]) == f"available: fused CUDA C++ for sm_80, sm_90; on cuda:0 ({gpu[0]})"
    assert (
        repr(kvmem.backends()["triton"]) == f"available: fused Triton, compiled at the first call; on cuda:0 ({gpu[0]})"
    )
    for backend in (None, "cuda"):
        assert backends.pick_backend(backend, torch.device("cuda:0")) == "cuda"
    assert backends.pick_backend("triton", torch.device("cuda:0")) == "triton"
    kvmem.KVMemoryLayer(8, 12, backend="cuda")


WITHOUT_CUDA = {
    "no CUDA in the build": ((H100,), {"built": ""}),
    "an old driver": ((H100,), {"driver": 12080}),
    "a GPU not built for": ((A10,), {"built": "sm_90,compute_90"}),
    "AMD": ((MI300,), {"cuda": None, "hip": "7.0"}),
}


@pytest.mark.parametrize("gpus, machine", WITHOUT_CUDA.values(), ids=WITHOUT_CUDA.keys())
def test_triton_runs_where_the_cuda_kernels_cannot(pretend, gpus, machine):
    pretend(*gpus, **machine)
    name = gpus[0][0]
    assert (
        repr(kvmem.backends()["triton"]) == f"available: fused Triton, compiled at the first call; on cuda:0 ({name})"
    )
    assert not kvmem.backends()["cuda"].available
    for backend in (None, "triton"):
        assert backends.pick_backend(backend, torch.device("cuda:0")) == "triton"
    kvmem.KVMemoryLayer(8, 12, backend="triton")
    with pytest.raises(RuntimeError, match="backend 'cuda' can't run"):
        backends.pick_backend("cuda", torch.device("cuda:0"))


WITHOUT_TRITON = {
    "no triton": ((H100,), {"triton": False}, "triton isn't installed"),
    "no GPU": ((), {}, "torch finds no GPU"),
    "no C compiler": ((H100,), {"compiler": None}, "Triton needs a C compiler at run time"),
    "an old GPU": ((T4,), {}, r"not on cuda:0 \(Tesla T4\): compute capability 7\.5, Triton needs 8\.0 or later"),
}


@pytest.mark.parametrize("gpus, machine, reason", WITHOUT_TRITON.values(), ids=WITHOUT_TRITON.keys())
def test_where_triton_cannot_run_the_status_says_why(pretend, gpus, machine, reason):
    pretend(*gpus, **machine)
    assert not kvmem.backends()["triton"].available
    with pytest.raises(RuntimeError, match=f"backend 'triton' can't run: .*{reason}"):
        kvmem.KVMemoryLayer(8, 12, backend="triton")
    with pytest.raises(RuntimeError, match=f"backend 'triton' can't run: .*{reason}"):
        backends.pick_backend("triton", torch.device("cuda:0"))
    assert backends.pick_backend(None, torch.device("cuda:0")) == ("cuda" if H100 in gpus else "eager")


def test_every_gpu_is_picked_for_by_itself(pretend):
    pretend(T4, H100)
    reason = kvmem.backends()["cuda"].reason
    assert reason.startswith(
        "fused CUDA C++ for sm_80, sm_90; on cuda:1 (NVIDIA H100); not on cuda:0 (Tesla T4): compute"
    )
    assert backends.pick_backend(None, torch.device("cuda:0")) == "eager"
    assert backends.pick_backend(None, torch.device("cuda:1")) == "cuda"
    for backend in ("cuda", "triton"):
        with pytest.raises(RuntimeError, match=rf"backend '{backend}' can't run on cuda:0: compute capability 7\.5"):
            backends.pick_backend(backend, torch.device("cuda:0"))


def test_tensors_of_other_devices_are_refused(pretend, make_problem):
    pretend(H100)
    assert backends.pick_backend(None, torch.device("cpu")) == "cpu"
    for backend in ("cuda", "triton"):
        with pytest.raises(RuntimeError, match=f"backend '{backend}' runs on cuda tensors: image is on device 'cpu'"):
            make_problem().run(backend)


LIMITS = {
    "float64": ({"dtype": torch.float64}, "float64"),
    "513 channels": ({"channels": 513}, "more than 512 image channels"),
    "129 slots": ({"slots": 129}, "more than 128 slots"),
}


@pytest.mark.parametrize("settings, limit", LIMITS.values(), ids=LIMITS.keys())
def test_calls_beyond_the_kernels_run_eager_unless_they_were_asked_for(
    pretend, make_problem, monkeypatch, settings, limit
):
    pretend(H100)
    with FakeTensorMode(allow_non_fake_inputs=True):
        problem = on_gpu(make_problem(memory_channels=8, **settings))
        with CalledOperators() as called:
            assert problem.run().shape == problem.image.shape
        assert "aten::_softmax" in called.names
        for backend in ("cuda", "triton"):
            message = f"backend '{backend}' can't run this call: its kernels don't take {limit}"
            with pytest.raises(RuntimeError, match=message):
                problem.run(backend)
            with monkeypatch.context() as environment:
                environment.setenv("KVMEM_BACKEND", backend)
                with pytest.raises(RuntimeError, match=message):
                    problem.run()


def on_gpu(problem):
    """The problem on a GPU that isn't there: under a FakeTensorMode, tensors have shapes and a device alone."""
    return problem.with_inputs([torch.empty_like(tensor, device="cuda:0") for tensor in problem.inputs.values()])


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("widths", ["scalar", "vector"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_the_fake_kernels_know_what_is_kept_on_a_gpu(pretend, make_problem, backend, dtype, widths, channels_last):
    """memory (B, (M + G + 2C + R) T + M + G), in float32; the kernels for CPUs keep no G numbers of the mean."""
    pretend(H100)
    gates = {"write_gate_width": widths, "response_gate_width": widths}
    problem = make_problem(3, 16, (5, 7), 6, 12, 32, dtype=dtype, channels_last=channels_last, **gates)
    g, r = (1, 1) if widths == "scalar" else (32, 16)
    *_, memory_on_cpu = torch.ops.kvmem.kv_memory(*problem.operator_arguments())
    assert memory_on_cpu.shape == (3, (32 + g + 2 * 16 + r) * 6 + 32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        problem = on_gpu(problem)
        with CalledOperators() as called:
            out = problem.run(backend)
        operators = NAMESPACES[backend]
        assert f"{operators}::kv_memory" in called.names
        found, _, mean, memory = getattr(torch.ops, operators).kv_memory(*problem.operator_arguments())
    assert out.stride() == found.stride() == problem.image.stride()
    assert mean.shape == (3, 16)
    assert memory.shape == (3, (32 + g + 2 * 16 + r) * 6 + 32 + g)
    assert mean.dtype == memory.dtype == torch.float32
    assert {tensor.device for tensor in (out, mean, memory)} == {torch.device("cuda:0")}
