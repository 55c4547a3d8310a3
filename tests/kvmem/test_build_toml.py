"""build.toml, by which Hugging Face's kernel-builder would build the library: it isn't there to try it with."""

import re
from pathlib import Path
from typing import Any

import pytest

from kvmem.torch_version import MINIMUM

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
ROOT = Path(__file__).parents[2]
SHARED = {"depends", "include", "src", "cxx-flags"}
# What edition 5 of the format knows: the builder refuses what it doesn't.
KEYS = {
    "general": {"name", "version", "edition", "license", "backends"},
    "torch": {"include", "src", "cxx-flags", "stable-abi"},
    "cpu": {"backend", *SHARED},
    "cuda": {"backend", *SHARED, "cuda-capabilities", "cuda-flags"},
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return tomllib.loads((ROOT / "build.toml").read_text())


def parts(described: dict[str, Any], backend: str) -> list[dict[str, Any]]:
    """The sections that a build for a backend is made of."""
    return [described["torch"], *(part for part in described["kernel"].values() if part["backend"] == backend)]


def test_the_format_knows_every_word(described):
    general = described["general"]
    assert set(described) == {"general", "torch", "kernel"} and set(general) == KEYS["general"]
    assert general["edition"] == 5 and re.fullmatch("[a-z][-a-z0-9]*[a-z0-9]", general["name"])
    assert set(described["torch"]) <= KEYS["torch"]
    for name, part in described["kernel"].items():
        assert set(part) <= KEYS[part["backend"]] and {"depends", "src"} <= set(part), name
    assert general["backends"] == sorted({part["backend"] for part in described["kernel"].values()})


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_each_build_has_all_its_sources_once(described, backend):
    """Headers too: the builder takes along what is named. The host machine of the tests is part of none."""
    named = [name for part in parts(described, backend) for name in part["src"]]
    assert len(named) == len(set(named))
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*") if path.is_file()}
    wanted = {name for name in sources if not name.startswith("csrc/simt/host")}
    if backend == "cpu":
        wanted = {name for name in wanted if not re.match("csrc/(cuda|simt)/|csrc/torch_cuda", name)}
    assert set(named) == wanted


def test_it_builds_as_cmake_does(described):
    """The same compiler flags, GPUs and oldest torch, and the library says the same of itself."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    flags = {flag for part in [described["torch"], *described["kernel"].values()] for flag in part.get("cxx-flags", [])}
    flags.update(described["kernel"]["cuda"]["cuda-flags"])
    assert not [flag for flag in flags if flag.removeprefix("-D") not in cmake]
    for isa in ("avx2", "avx512", "avx512_bf16"):
        listed = re.search(rf"isa_{isa}\.cpp PROPERTIES COMPILE_OPTIONS\s+\"(.*?)\"", cmake).group(1).split(";")
        for backend in described["general"]["backends"]:
            assert set(listed) <= set(described["kernel"][f"{backend}_{isa}"]["cxx-flags"])
    capabilities = [name.replace(".", "") for name in described["kernel"]["cuda"]["cuda-capabilities"]]
    archs = [name.removesuffix("+PTX") for name in capabilities]
    assert capabilities[-1] == f"{archs[-1]}+PTX"
    assert f'DEFAULT_CUDA_ARCHS = "{";".join(archs)}"' in (ROOT / "setup.py").read_text()
    says = ",".join([*(f"sm_{arch}" for arch in archs), f"compute_{archs[-1]}"])
    assert f'KVMEM_CUDA_ARCHITECTURES "{says}"' in (ROOT / "csrc" / "torch_library.h").read_text()
    assert set(described["torch"]["stable-abi"].values()) == {".".join(map(str, MINIMUM))}
