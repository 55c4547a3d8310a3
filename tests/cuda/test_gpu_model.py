"""The model of the GPUs against what can be counted by hand: the library's loops, bytes, waves; and that it is sane."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gpu_model
import pytest
import simt_build
import torch
from gpu_chips import CHIPS, chip_of
from gpu_clusters import Wave, waves_of
from gpu_issue import unit_clocks, warp_clocks
from gpu_phases import Prediction
from gpu_plan import Shape, other_plans, plan, tiles_of
from machine_code import Instruction, Kernel, find_tool

import kvmem

H100 = chip_of("NVIDIA H100 80GB HBM3")
MAIN = Shape(32, 128, "bfloat16", "forward")


@pytest.fixture(scope="module")
def kernels() -> dict[str, list[Kernel]]:
    """By architecture."""
    if not kvmem.backends()["cpu"].available or not torch.ops.kvmem.cuda_architectures():
        pytest.skip("kvmem is built without CUDA")
    if missing := {chip.code for chip in CHIPS} - set(torch.ops.kvmem.cuda_architectures().split(",")):
        pytest.skip(f"kvmem is built without {', '.join(missing)}")
    if find_tool("cuobjdump") is None or find_tool("nvdisasm") is None:
        pytest.skip("no cuobjdump or nvdisasm on the PATH, in /usr/local/cuda or in a triton package")
    if simt_build.compiler() is None:
        pytest.skip("no C++ compiler")
    return gpu_model.read_library(Path(kvmem.__file__).with_name("_kernels.so"))


@pytest.fixture(scope="module")
def predicted(kernels: dict[str, list[Kernel]]) -> dict[tuple[str, Shape], Prediction]:
    return {(found.chip, found.shape): found for found in gpu_model.predictions(kernels)}


def test_its_counts_are_those_of_the_budgets(kernels, predicted):
    """And registers allow two blocks of 16-bit forward, one of all else, on a multiprocessor."""
    for dtype in ("bfloat16", "float16", "float32"):
        for direction in ("forward", "backward"):
            name = f"cluster_{direction}_kernel"
            (code,) = (k for k in kernels["sm_90"] if (k.name, k.type, k.variant) == (name, dtype, "contiguous"))
            found = predicted["H100", Shape(32, 128, dtype, direction)]
            assert found.instructions == len(code.main_loop())
            assert found.blocks == (2 if direction == "forward" and dtype != "float32" else 1)


def test_bytes_by_hand(predicted):
    """32 images of 64 x 128² numbers of 2 bytes: 64 MiB."""
    images = 64 << 20
    assert MAIN.traffic == 2 * images
    # What a single image needs again is on chip or in the second-level cache.
    assert predicted["H100", replace(MAIN, batch=1)].moved == 2 * images / 32
    assert predicted["H100", replace(MAIN, batch=1, direction="backward")].moved == 3 * images / 32
    # The general path reads h for the mean and once more where it doesn't fit into the second-level cache of 40 MiB.
    assert predicted["A100", MAIN].moved == 3 * images
    assert predicted["A100", replace(MAIN, batch=1)].moved == 2 * images / 32
    # Two passes of memory at 90 % of 3.35 TB/s, and 2 µs.
    assert predicted["H100", MAIN].bound == pytest.approx(2e-6 + 2 * images / (0.9 * 3.35e12))


def test_waves_by_hand(predicted):
    """Eight processing clusters of 16 or 18 multiprocessors: in each a cluster of 16, for each block that fits."""
    assert waves_of(H100, 32, 16, 1) == [Wave(8, 1)] * 4
    assert waves_of(H100, 32, 16, 2) == [Wave(16, 2)] * 2
    assert waves_of(H100, 10, 16, 2) == [Wave(10, 2)]
    assert waves_of(H100, 20, 16, 2) == [Wave(16, 2), Wave(4, 1)]
    # The same with clusters of 4, of which 18 multiprocessors have room for 4, and of 8.
    assert waves_of(H100, 32, 4, 1) == [Wave(32, 1)]
    assert waves_of(H100, 64, 8, 1) == [Wave(16, 1)] * 4
    for found in predicted.values():
        if found.path == "cluster":
            assert found.waves == -(-found.shape.batch // found.resident)


def test_plans_are_the_planners(kernels):
    (launch,) = plan(H100, MAIN, kernels["sm_90"])
    assert (launch.kernel, launch.dtype) == ("cluster_forward_kernel", "bfloat16")
    assert launch.blocks == 32 * launch.cluster
    assert launch.code(kernels["sm_90"]).variant == "contiguous"
    assert tiles_of(H100, MAIN, launch).group == 256 / (2 * launch.cluster)  # tiles of 64 positions, groups of warps
    assert launch in other_plans(H100, MAIN, launch, kernels["sm_90"])
    asked = H100, MAIN, kernels["sm_90"]
    assert gpu_model.fastest(*asked).lockstep <= gpu_model.predict(*asked).lockstep
    assert [step.kernel for step in plan(chip_of("A100"), MAIN, kernels["sm_80"])] == [
        "sum_chunks",
        *3 * ["memory_forward_kernel"],
        "pack_tables",
        "general_forward_tiles",
    ]


def test_more_images_take_longer_and_more_bandwidth_less_long(predicted):
    for shape in gpu_model.SHAPES:
        batches = [replace(shape, batch=batch) for batch in (1, 10, 32, 64)]
        for chip in CHIPS:
            times = [predicted[chip.name, each].lockstep for each in batches]
            found = predicted[chip.name, shape]
            # The general backward cuts few images into more chunks each, which the memory side adds up.
            if found.path == "cluster" or shape.direction == "forward":
                assert all(less < more for less, more in pairwise(times)), (chip.name, shape, times)
            assert found.bound <= found.lockstep * (1 + 1e-9), (chip.name, shape)
            assert found.spread <= found.lockstep * (1 + 1e-9), (chip.name, shape)
            assert sum(phase.seconds for phase in found.phases.values()) == pytest.approx(found.lockstep)
        assert predicted["H200", shape].lockstep <= predicted["H100", shape].lockstep


def test_units_and_waits_by_hand():
    """Two loads that the product waits for, by barrier 0, and a product that takes 14 clocks."""
    wait_for_barrier_0, none = 1 << 11, 7 << 5 | 7 << 8
    code = [
        Instruction(0, "LDS.128", "", 1 | 0 << 5 | 7 << 8),
        Instruction(16, "LDSM.16.MT88.4", "", 1 | 0 << 5 | 7 << 8),
        Instruction(32, "HMMA.16816.F32.BF16", "", 14 | none | wait_for_barrier_0),
        Instruction(48, "FFMA", "", 1 | none),
    ]
    assert warp_clocks(code) == 1 + 30 + 14 + 1
    clocks = unit_clocks(code, H100)
    assert (clocks["issue"], clocks["shared memory"], clocks["matrix units"]) == (1, 8, 1)
    assert unit_clocks(code, chip_of("A100"))["matrix units"] == 2


def test_a_library_without_cuda_is_refused(tmp_path):
    if find_tool("cuobjdump") is None:
        pytest.skip("no cuobjdump")
    with pytest.raises(SystemExit, match=r"no such library"):
        gpu_model.read_library(tmp_path / "missing.so")
    (tmp_path / "empty.so").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"holds no machine code for sm_80, sm_90: build kvmem with KVMEM_CUDA=1"):
        gpu_model.read_library(tmp_path / "empty.so")


def test_predictions_stand_beside_measurements(tmp_path, capsys, monkeypatch):
    """With neither a library nor tools, from the record that the checkout has."""
    (known,) = (
        found
        for found in json.loads(gpu_model.RECORD.read_text())["results"]
        if (found["chip"], found["case"], found["direction"]) == ("H200", MAIN.case, "forward")
    )
    times = {"cuda": 2e-3 * known["predicted_microseconds"], "bound": 1e-3 * known["copy_microseconds"]}
    result = {"case": MAIN.case, "direction": "forward", "milliseconds": times}
    record = {"machine": {"device": "NVIDIA H200"}, "results": [result, {**result, "direction": "forward + backward"}]}
    (tmp_path / "gpu.json").write_text(json.dumps(record))
    monkeypatch.setattr("sys.argv", ["gpu_model.py", "--beside", str(tmp_path / "gpu.json")])
    gpu_model.main()
    first, titles, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("H200, µs") and "measured" in titles
    assert len(rows) == 1 and MAIN.case in rows[0] and "2.00" in rows[0].split()
    assert gpu_model.beside({"machine": {"device": "a GPU"}}, gpu_model.RECORD) == [
        "no prediction: a GPU is none of A100, H100, H200, B200, RTX 4090"
    ]
