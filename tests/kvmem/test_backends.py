"""What can run here is said truthfully, a choice is honoured or refused, and the chosen path is the one that runs."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kvmem_problems import CalledOperators

import kvmem
from kvmem.torch_version import require_torch
from kvmem.triton.status import forget

FORWARD, BACKWARD = "kvmem::kv_memory", "kvmem::kv_memory_backward"


def test_every_backend_has_a_status_and_a_reason():
    statuses = kvmem.backends()
    assert list(statuses) == ["eager", "cpu", "cuda", "triton"]
    assert statuses["eager"].available
    if not torch.cuda.is_available():
        assert not statuses["cuda"].available
        assert "built for sm_" in repr(statuses["cuda"]) or "built without CUDA" in repr(statuses["cuda"])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton isn't installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "interpret, status",
    [
        ("1", "available: fused Triton, run by its interpreter on the CPU (TRITON_INTERPRET=1): for tests"),
        ("0", "not available: torch finds no GPU (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"),
    ],
)
def test_the_triton_status_without_a_gpu(monkeypatch, interpret, status):
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    forget()
    assert repr(kvmem.backends()["triton"]) == status
    monkeypatch.undo()
    forget()


def test_the_cpu_status_names_the_instruction_set(isa):
    status = kvmem.backends()["cpu"]
    assert status.available
    assert f"instruction set {isa}, of: " in status.reason
    assert "generic" in status.reason.split("of:")[1]


def test_an_instruction_set_that_does_not_exist_is_refused(extension):
    before = torch.ops.kvmem.cpu_isa("")
    with pytest.raises(RuntimeError, match="sse9"):
        torch.ops.kvmem.cpu_isa("sse9")
    assert torch.ops.kvmem.cpu_isa("") == before


@pytest.mark.parametrize("attention", [False, True])
def test_the_chosen_path_is_the_one_that_runs(make_problem, backend, attention):
    """The operators that ran, forward and backward, are the fused ones for cpu and none of them for eager."""
    problem = make_problem(mask="partial").leaves()
    with CalledOperators() as called:
        outputs = problem.run(backend, return_attention=attention)
        sum(output.sum() for output in (outputs if attention else (outputs,))).backward()
    if backend == "cpu":
        assert called.names.count(FORWARD) == called.names.count(BACKWARD) == 1
        assert not any(name.startswith(("aten::bmm", "aten::_softmax", "aten::addmm")) for name in called.names)
    else:
        assert "aten::_softmax" in called.names
        assert not any(name.startswith("kvmem::") for name in called.names)


def test_none_picks_the_fused_kernels_for_cpu_tensors(make_problem, monkeypatch, extension):
    monkeypatch.delenv("KVMEM_BACKEND", raising=False)
    with CalledOperators() as called:
        make_problem().run()
    assert FORWARD in called.names


@pytest.mark.parametrize("chosen", ["eager", "cpu"])
def test_the_environment_overrides_the_pick_but_not_an_explicit_choice(make_problem, monkeypatch, extension, chosen):
    other = {"eager": "cpu", "cpu": "eager"}[chosen]
    monkeypatch.setenv("KVMEM_BACKEND", chosen)
    for backend, fused in ((None, chosen == "cpu"), (other, other == "cpu")):
        with CalledOperators() as called:
            make_problem().run(backend)
        assert (FORWARD in called.names) == fused


def test_a_backend_that_cannot_run_raises_and_says_why(make_problem, monkeypatch):
    problem = make_problem()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    forget()
    missing = [name for name, status in kvmem.backends().items() if not status.available]
    assert torch.cuda.is_available() or missing[-2:] == ["cuda", "triton"]
    for name in missing:
        message = re.escape(f"backend '{name}' can't run: {kvmem.backends()[name].reason}")
        with pytest.raises(RuntimeError, match=message):
            problem.run(name)
        with pytest.raises(RuntimeError, match=message):
            kvmem.KVMemoryLayer(8, 12, backend=name)
    with pytest.raises(ValueError, match="backend: got 'gpu', expected one of 'eager', 'cpu', 'cuda', 'triton'"):
        problem.run("gpu")
    for name in missing:
        monkeypatch.setenv("KVMEM_BACKEND", name)
        with pytest.raises(RuntimeError, match=f"backend '{name}' can't run"):
            problem.run()
    monkeypatch.undo()
    forget()


def test_the_cpu_backend_refuses_tensors_of_other_devices(make_problem, extension):
    problem = make_problem()
    elsewhere = problem.with_inputs([tensor.to("meta") for tensor in problem.inputs.values()])
    assert elsewhere.run().shape == problem.image.shape
    with pytest.raises(RuntimeError, match="backend 'cpu' runs on cpu tensors: image is on device 'meta'"):
        elsewhere.run("cpu")


def run_python(code: str, folder: Path = Path(kvmem.__file__).parents[1]) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter, which finds kvmem in the folder."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)


def test_without_the_extension_everything_runs_eager_and_says_so():
    """A pure Python install, played by a library file that isn't there."""
    done = run_python(
        "from pathlib import Path\n"
        "exists = Path.exists\n"
        "Path.exists = lambda self, **options: self.name != '_kernels.so' and exists(self, **options)\n"
        "import torch, kvmem\n"
        "print(kvmem.backends()['cpu'])\n"
        "layer = kvmem.KVMemoryLayer(8, 12)\n"
        "print(tuple(layer(torch.randn(2, 8, 3, 3), torch.randn(2, 5, 12)).shape))\n"
        "kvmem.KVMemoryLayer(8, 12, backend='cpu')\n"
    )
    assert "not available: kvmem was installed without its compiled extension" in done.stdout
    assert "(2, 8, 3, 3)" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("RuntimeError: backend 'cpu' can't run: kvmem was installed")


def test_an_extension_that_cannot_be_loaded_is_no_reason_to_run_slowly_in_silence(tmp_path):
    package = shutil.copytree(Path(kvmem.__file__).parent, tmp_path / "kvmem", ignore=shutil.ignore_patterns("*.so"))
    (package / "_kernels.so").write_bytes(b"not a library")
    error = run_python("import kvmem", tmp_path).stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: kvmem's compiled extension can't be loaded: reinstall kvmem")


def test_an_older_torch_is_refused_at_import():
    done = run_python("import torch\ntorch.__version__ = '2.10.1+cpu'\nimport kvmem\n")
    message = "ImportError: kvmem needs torch 2.11 or later, found torch 2.10.1+cpu"
    assert done.stderr.strip().splitlines()[-1].startswith(message)


@pytest.mark.parametrize("found", ["2.11.0", "2.15.0+cu132", "3.0.0a0+git12ab", "2.11", "10.0"])
def test_later_versions_of_torch_are_accepted(found):
    require_torch(found)


@pytest.mark.parametrize("found", ["1.13.1", "2.9.0", "2.10.0a0+git12ab"])
def test_earlier_versions_of_torch_are_refused(found):
    with pytest.raises(ImportError, match=r"kvmem needs torch 2\.11 or later, found torch"):
        require_torch(found)
