"""The build: sdist and wheel, installs without a compiler or kernels, an old torch, when CUDA is built, the library."""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import setuptools
import torch
from kvmem_packaging import copy_checkout, install_editable, new_environment

import kvmem

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that a build needs, without anything built but a library of long ago."""
    folder = copy_checkout(tmp_path / "checkout")
    (folder / "kvmem" / "_kernels.so").write_text("of long ago")
    return folder


def run_python(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=checkout, env=environment, capture_output=True, text=True
    )


def build(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds a wheel into checkout/dist with what is installed here."""
    options = ["-v", "--no-deps", "--no-build-isolation", "-w", "dist"]
    return run_python(checkout, "pip", "wheel", *options, ".", **environment)


def wheel(checkout: Path) -> Path:
    return next((checkout / "dist").glob("*.whl"))


def test_one_wheel_from_the_sdist_serves_every_python_3(checkout: Path) -> None:
    """`python -m build`: the sdist has what is built from and nothing else; its wheel is for any Python 3.

    The library links no Python and knows no folder. It is built as on a machine without nvcc: the CUDA kernels would
    take minutes.
    """
    pytest.importorskip("build")
    sources = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    done = run_python(checkout, "build", "--no-isolation", CUDACXX="no-such-nvcc")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA kernels are built: no nvcc found" in done.stdout + done.stderr
    with tarfile.open(next((checkout / "dist").glob("*.tar.gz"))) as archive:
        packed = {"/".join(member.name.split("/")[1:]) for member in archive.getmembers() if member.isfile()}
    made = {name for name in packed if name.startswith("kvmem.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert packed - made == sources - {"kvmem/_kernels.so"}
    name = wheel(checkout).name
    assert "-py3-none-" in name and not name.endswith("-any.whl")
    with zipfile.ZipFile(wheel(checkout)) as archive:
        library = archive.read("kvmem/_kernels.so")
    assert str(Path(torch.__file__).parent).encode() not in library
    assert b"libtorch_cpu.so" in library and b"libpython" not in library and b"libtorch_python" not in library


@pytest.mark.parametrize("environment", [{"CXX": "no-such-compiler"}, {"KVMEM_PURE_PYTHON": "1"}])
def test_without_kernels_the_install_succeeds_and_says_so(checkout: Path, environment: dict[str, str]) -> None:
    """No compiler, or none wanted: a pure-Python wheel, the reason in the build's output, and a layer that runs."""
    done = build(checkout, **environment)
    assert done.returncode == 0, done.stderr
    assert "no kernels are built" in done.stdout + done.stderr
    with zipfile.ZipFile(wheel(checkout)) as archive:
        assert "kvmem/_kernels.so" not in archive.namelist()
        archive.extractall(checkout / "installed")
    program = (
        "import kvmem, torch; print(kvmem.backends()['cpu']); "
        "kvmem.KVMemoryLayer(4, 3)(torch.ones(1, 4, 2, 2), torch.ones(1, 2, 3))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(checkout / "installed")},
        cwd=checkout / "installed",
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "not available" in ran.stdout and "_kernels.so is missing" in ran.stdout


def test_without_a_compiler_an_editable_install_succeeds(checkout: Path, tmp_path: Path) -> None:
    """`pip install -e .`, as the README has it, in an environment that hasn't got kvmem."""
    (checkout / "kvmem" / "_kernels.so").unlink()
    python = new_environment(tmp_path / "environment")
    install_editable(checkout, python, CXX="no-such-compiler")
    program = "import kvmem; print(kvmem.__file__, kvmem.backends()['cpu'])"
    said = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{checkout / 'kvmem'}/") and "_kernels.so is missing" in said


def test_an_old_torch_is_refused_by_the_build(checkout: Path, tmp_path: Path) -> None:
    """Building against a torch before the stable ABI stops with a line that names both versions."""
    old = tmp_path / "old" / "torch"
    (old / "utils").mkdir(parents=True)
    (old / "__init__.py").write_text('__version__ = "2.10.1+cpu"\n')
    (old / "utils" / "__init__.py").touch()
    (old / "utils" / "cpp_extension.py").touch()
    done = build(checkout, PYTHONPATH=str(old.parent))
    assert done.returncode != 0
    assert "kvmem needs torch 2.11 or later to build, found 2.10.1+cpu" in done.stdout + done.stderr


@pytest.fixture
def setup_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module that sets nothing up, in an environment that says nothing of CUDA and a torch with CUDA."""
    for name in ("KVMEM_CUDA", "KVMEM_CUDA_ARCHS", "CUDACXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    spec = importlib.util.spec_from_file_location("kvmem_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a program in nvcc's place that answers for a version and its architectures, and compiles or doesn't."""

    def make(version: str = "13.0", archs: str = "75 80 86 90 100", complaint: str = "") -> Path:
        program = tmp_path / "nvcc"
        program.write_text(
            "#!/bin/sh\n"
            'case "$1" in\n'
            f"--version) echo 'Cuda compilation tools, release {version}, V{version}.1';;\n"
            f"--list-gpu-arch) for arch in {archs}; do echo compute_$arch; done;;\n"
            f"*) echo '{complaint}' >&2; exit {int(bool(complaint))};;\n"
            "esac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("CUDACXX", str(program))
        return program

    return make


def test_cuda_is_built_where_nvcc_and_a_torch_with_cuda_are(setup_module, fake_nvcc, capfd) -> None:
    program = fake_nvcc()
    options = setup_module.cuda_options()
    assert options[:2] == ["-DKVMEM_CUDA_ARCHS=80;90", f"-DCMAKE_CUDA_COMPILER={program}"]
    assert f"kvmem: CUDA kernels for 80, 90 by {program}" in capfd.readouterr().err


REFUSALS = {
    "no nvcc": ({}, {"CUDACXX": "no-such-nvcc"}, "no nvcc found by CUDACXX, in CUDA_HOME, on the PATH and"),
    "an old nvcc": ({"version": "12.0"}, {}, "nvcc is of CUDA 12.0, the kernels need CUDA 12.1 or later"),
    "an nvcc that knows no such GPU": ({"archs": "50 75"}, {}, "of CUDA 13.0 can compile for none of '80;90'"),
    "a C++ compiler that nvcc refuses": ({"complaint": "unsupported GNU version!"}, {}, "unsupported GNU version!"),
    "GPUs that are too old": ({}, {"KVMEM_CUDA_ARCHS": "70;80"}, "KVMEM_CUDA_ARCHS: got '70;80', expected compute cap"),
    "GPUs of no number": ({}, {"KVMEM_CUDA_ARCHS": "sm_90"}, "KVMEM_CUDA_ARCHS: got 'sm_90', expected compute cap"),
}


@pytest.mark.parametrize("nvcc, environment, reason", REFUSALS.values(), ids=REFUSALS.keys())
def test_where_cuda_cannot_be_built_the_build_says_why_and_fails_only_if_it_was_insisted_on(
    setup_module, fake_nvcc, monkeypatch, capfd, nvcc, environment, reason
) -> None:
    fake_nvcc(**nvcc)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert setup_module.cuda_options() == ["-DKVMEM_CUDA_ARCHS="]
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("kvmem: no CUDA kernels are built: ") and reason in said
    monkeypatch.setenv("KVMEM_CUDA", "1")
    with pytest.raises(RuntimeError, match=f"KVMEM_CUDA=1, but the CUDA kernels can't be built: .*{re.escape(reason)}"):
        setup_module.cuda_options()


def test_a_gpu_that_nvcc_does_not_know_is_left_out(setup_module, fake_nvcc, monkeypatch, capfd) -> None:
    fake_nvcc(archs="80 86 90")
    monkeypatch.setenv("KVMEM_CUDA_ARCHS", "120, 90 80")
    assert setup_module.cuda_options()[0] == "-DKVMEM_CUDA_ARCHS=80;90"
    assert "can't compile for sm_120, which is left out" in capfd.readouterr().err


def test_cuda_is_not_built_on_request_or_for_a_torch_without_it(setup_module, fake_nvcc, monkeypatch, capfd) -> None:
    fake_nvcc()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert setup_module.cuda_options() == ["-DKVMEM_CUDA_ARCHS="]
    assert "is built without CUDA; KVMEM_CUDA=1 builds them nonetheless" in capfd.readouterr().err
    monkeypatch.setenv("KVMEM_CUDA", "1")
    assert setup_module.cuda_options()[0] == "-DKVMEM_CUDA_ARCHS=80;90"
    monkeypatch.setenv("KVMEM_CUDA", "0")
    assert setup_module.cuda_options() == ["-DKVMEM_CUDA_ARCHS="]
    monkeypatch.setenv("KVMEM_CUDA", "yes")
    with pytest.raises(RuntimeError, match="KVMEM_CUDA: got 'yes', expected 0"):
        setup_module.cuda_options()


def undefined_symbols(library: Path) -> dict[str, str]:
    """What a library takes from elsewhere: name -> the version that it asks for, "" without one; not what may lack."""
    said = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    names = [line.split()[1].partition("@") for line in said.splitlines() if line.split()[0] == "U"]
    return {name: version.lstrip("@") for name, _, version in names}


def test_the_library_stands_on_torch_s_stable_abi_alone(extension) -> None:
    """Of torch it takes C functions of the stable ABI and nothing of C++, of Python nothing, all else of the system.

    This is what abi3audit asks of libraries for Python's stable ABI, which this one doesn't use.
    """
    symbols = undefined_symbols(Path(kvmem.__file__).with_name("_kernels.so"))
    assert not [name for name in symbols if re.match("_?Py", name)]
    # The system's libraries give versions to their symbols.
    of_torch = {name for name, version in symbols.items() if not re.match("GLIBC|GLIBCXX|CXXABI|GCC", version)}
    assert {"torch_call_dispatcher", "aoti_torch_library_init_def"} <= of_torch
    assert not [name for name in of_torch if not re.match("(aoti_)?torch_[a-z]", name)]


def test_the_library_brings_its_own_cuda_and_asks_for_none(extension) -> None:
    """No CUDA library is linked, and none of the CUDA runtime's names that stand in the library are open to others."""
    library = Path(kvmem.__file__).with_name("_kernels.so")
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    system = r"lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\.\d+|ld-linux.*"
    assert [name for name in needed if not re.fullmatch(system, name)] == ["libtorch_cpu.so"]
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    assert not re.search(r" \w _*cuda", symbols)
