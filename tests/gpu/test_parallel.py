"""Training by several processes on GPUs: two that share one by gloo, and two with one each by NCCL, are as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Where what it needs isn't installed, as on a machine with a GPU and without a network, there is nothing to test.
pytest.importorskip("kvmgan_training")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "parallel_checks.py"
CHECKS = ("step memory", "step attention", "step accumulation")
SKIPPED = {"skipped": 1, "same": True, "finite": True}


def run(folder: Path, processes: int, gpus: str) -> list[dict]:
    """What each process found in the checks."""
    folder.mkdir()
    launcher = [sys.executable, *(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": gpus}
    command = [*(launcher if processes > 1 else launcher[:1]), str(SCRIPT), str(folder), "cuda", *CHECKS, "not_finite"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


@pytest.mark.parametrize("gpus", ["0", "0,1"], ids=["gloo, one GPU", "NCCL, two GPUs"])
def test_two_processes_are_as_one(tmp_path, gpus):
    """Losses, weights, running statistics and gradients in float64; a NaN of one process is skipped by both."""
    if torch.cuda.device_count() < len(gpus.split(",")):
        pytest.skip("there are fewer GPUs")
    (expected,), found = run(tmp_path / "1", 1, "0"), run(tmp_path / "2", 2, gpus)
    for one in found:
        assert one["not_finite"] == SKIPPED
        for check in CHECKS:
            for mine, theirs in zip(one[check]["losses"], expected[check]["losses"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-5)
            for name, value in expected[check]["tensors"].items():
                largest = value.abs().max().item() if value.numel() else 0.0
                found_value = one[check]["tensors"][name]
                torch.testing.assert_close(found_value, value, rtol=0, atol=1e-6 * max(largest, 1e-3), msg=name)
