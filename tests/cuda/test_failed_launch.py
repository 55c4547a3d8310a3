"""What a launch that the runtime refuses says, from a program of a single kernel: which kernel, where, and why."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
PROGRAM = """
#include <cstdio>

#include "simt/simt.cuh"

namespace kvmem::cuda {
template <typename T>
KVMEM_KERNEL(32, 1) empty_kernel(KVMEM_PARAMETER(T)) {}
}  // namespace kvmem::cuda

int main() {
  using namespace kvmem;
  // More threads than a block can have; without a GPU the runtime refuses any launch.
  const char* error = simt::launch<cuda::empty_kernel<float>>(simt::Launch{1, 2048, 1, 0, nullptr}, 0.0f);
  std::puts(error ? error : "launched");
}
"""


def test_it_names_the_kernel_and_the_line(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on the PATH")
    source = tmp_path / "cuda" / "program.cu"
    source.parent.mkdir()
    source.write_text(PROGRAM)
    program = tmp_path / "program"
    command = [nvcc, "-std=c++20", f"-I{CSRC}", "-arch=sm_90", "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = subprocess.run([program], capture_output=True, text=True).stdout.strip()
    line = 1 + next(i for i, text in enumerate(PROGRAM.splitlines()) if "simt::launch<" in text)
    assert re.fullmatch(rf"kvmem::cuda::empty_kernel<float> \(program\.cu:{line}\): \w.+", said), said
