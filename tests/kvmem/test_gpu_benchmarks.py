"""What the GPU benchmarks make of their measurements, on made-up ones: tables, bars, roofline."""

import importlib
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kvmem

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a module of the benchmarks' folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def measured(benchmarks, monkeypatch):
    """The summary of a measurement that is made up: milliseconds by contender, launches by kernels."""
    timing = benchmarks("gpu_timing")
    case_of = {case.name: case for case in benchmarks("gpu_cases").GPU_CASES}

    def summary(case, direction, milliseconds, launches):
        milliseconds = {"attention": milliseconds["eager"], **milliseconds}
        peaks = {name: 10 if name == "eager" else 3 for name in milliseconds}
        functions = {name: name for name in milliseconds}
        bound = functions.pop("bound")
        monkeypatch.setattr(timing, "make_gpu_contenders", lambda *_: dict(functions))
        monkeypatch.setattr(timing, "make_bounds", lambda case: {direction: bound})
        rounds = {name: [value / 1e3] * 3 for name, value in milliseconds.items()}
        rounds[timing.BOUND_AGAIN] = [1.02 * value for value in rounds["bound"]]
        replays = {name: f"{name} replayed" for name in functions}
        rounds |= {replays[name]: [value / 2 for value in rounds[name]] for name in functions}

        def interleave(given):
            """By the function, or by the name where two names are of one function."""
            return {
                name: rounds[function if function in replays.values() else name] for name, function in given.items()
            }

        monkeypatch.setattr(timing, "measuring_stream", nullcontext)
        monkeypatch.setattr(timing, "interleave_on_gpu", interleave)
        monkeypatch.setattr(timing, "captured", lambda _: (replays, {"attention": "no capture"}))
        monkeypatch.setattr(timing, "read_clocks", lambda: {"multiprocessors_mhz": "1980"})
        monkeypatch.setattr(timing, "host_and_gpu_seconds", lambda name: 2 * milliseconds[name] / 1e3)
        monkeypatch.setattr(timing, "launched_kernels", lambda name: ["kernel"] * launches.get(name, 20))
        monkeypatch.setattr(timing, "peak_bytes", peaks.get)
        return timing.GpuMeasurement(case_of[case], direction, True).summary()

    return summary


MACHINE = {
    "device": "a GPU",
    "torch": "2.11",
    "cuda": "13.0",
    "hip": None,
    "commit": "abc",
    "gemm_flops_per_second": {"float32": 5e13, "bfloat16": 7e14, "float16": 7e14},
}


def times(bound, eager, compiled, **kernels):
    return {"bound": bound, "eager": eager, "compiled": compiled, **kernels}


@pytest.fixture
def record(benchmarks, measured):
    cases = benchmarks("gpu_cases")
    both = "forward + backward"
    results = [
        measured(cases.MAIN, "forward", times(0.045, 0.6, 0.09, cuda=0.05, triton=0.06), {"cuda": 1, "triton": 2}),
        measured(cases.MAIN, both, times(0.11, 1.4, 0.35, cuda=0.14, triton=0.2), {"cuda": 4, "triton": 5}),
        measured(
            cases.STAGE_TWO, "forward", times(0.008, 0.05, 0.02, cuda=0.01, triton=0.014), {"cuda": 2, "triton": 2}
        ),
        measured(cases.STAGE_TWO, "backward", times(0.01, 0.09, 0.02, triton=0.015), {"triton": 4}),
    ]
    return {"machine": MACHINE, "bars": benchmarks("gpu_report").bars(results), "results": results}


def test_a_bar_is_met_or_not_and_missing_where_it_was_not_measured(record):
    met = {bar["bar"]: bar["met"] for bar in record["bars"]}
    assert met == {
        "B=32, 128², bfloat16: forward / copy": True,
        "B=32, 128², bfloat16: forward, x eager": True,
        "B=32, 128², bfloat16: forward, x torch.compile": False,
        "B=32, 128², bfloat16: forward + backward, x eager": True,
        "B=32, 128², bfloat16: forward + backward, x torch.compile": True,
        "B=32, 128², bfloat16: peak memory / eager's": True,
        "B=10, 64², bfloat16: forward, x eager": False,
        "B=10, 64², bfloat16: launches forward": False,
        "B=32, 128², bfloat16: triton forward / cuda": True,
        "B=32, 128², bfloat16: triton forward, x eager": True,
        "B=32, 128², bfloat16: triton launches forward": True,
        "B=10, 64², bfloat16: triton forward / cuda": False,
        "B=10, 64², bfloat16: triton forward, x eager": False,
        "B=10, 64², bfloat16: triton launches forward": True,
        "B=10, 64², bfloat16: triton backward, x eager": True,
        "B=10, 64², bfloat16: triton launches backward": False,
    }


def test_graphs_clocks_and_the_spread_of_the_bound_are_recorded(record, benchmarks):
    summary = record["results"][0]
    assert summary["graph_milliseconds"]["cuda"] == pytest.approx(0.025)
    assert summary["graph_milliseconds"].keys() == {"cuda", "triton", "eager", "compiled", "attention"}
    assert summary["not_captured"] == {"attention": "no capture"}
    assert summary["bound_spread"] == pytest.approx(0.02)
    assert summary["clocks"] == {"multiprocessors_mhz": "1980"}
    assert set(summary["milliseconds"]) == {"cuda", "triton", "eager", "compiled", "attention", "bound"}
    titles, row, *_ = benchmarks("gpu_report").gpu_rows(record["results"])
    assert row[titles.index("cuda graph ms")] == "0.0250"
    assert row[titles.index("bound spread")] == "2.0%"


@pytest.mark.parametrize(
    "says, found",
    [
        ("echo '1980, 1980, 2619, 0x0, 41, 320.5'", "1980"),
        ("echo '1980, 2619'", None),
        ("echo nothing >&2; exit 9", None),
    ],
)
def test_clocks_are_what_nvidia_smi_says(benchmarks, monkeypatch, tmp_path, says, found):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))
    clocks = benchmarks("gpu_clocks").read_clocks()
    assert (clocks and clocks["multiprocessors_mhz"]) == found


def test_without_nvidia_smi_there_are_no_clocks(benchmarks, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert benchmarks("gpu_clocks").read_clocks() is None


def test_a_call_that_cannot_be_captured_says_why(benchmarks):
    """On a machine without a GPU none can."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    replays, reasons = benchmarks("gpu_graphs").captured({"eager": lambda: None})
    assert replays == {} and set(reasons) == {"eager"}


def test_the_tables_and_the_roofline_come_from_the_record(record, tmp_path):
    source, tables, picture = (tmp_path / name for name in ("gpu.json", "tables.md", "roofline.png"))
    source.write_text(json.dumps(record))
    command = [sys.executable, BENCHMARKS / "plot.py", source, "--tables", tables]
    subprocess.run([*command, "--roofline", picture], check=True)
    text = tables.read_text()
    assert "| B=32, 128², bfloat16 | forward | 0.0500 | 0.0450 | 1.11 |" in text
    # Both kernels' columns hold where only the one or the other ran.
    assert "| 1 | 30% | 0.0600 | 1.20 | 10.0 | 2 | 30% |" in text
    assert "| B=10, 64², bfloat16 | backward | - | 0.0100 | - | 0.0900 | - |" in text
    assert "| - | - | 0.0150 | - | 6.0 | 4 | 30% |" in text
    assert "| B=10, 64², bfloat16: launches forward | 2 | 1 |  | no |" in text
    assert picture.exists()


@pytest.mark.parametrize(
    "content", ['{"machine": {}, "results": []}', "[]", "{"], ids=["of a CPU", "a list", "no JSON"]
)
def test_what_is_no_record_of_a_gpu_is_refused_in_one_line(tmp_path, content):
    source, tables = tmp_path / "record.json", tmp_path / "tables.md"
    source.write_text(content)
    command = [sys.executable, BENCHMARKS / "plot.py", source, "--tables", tables]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(str(source)) and done.stderr.count("\n") == 1
    assert not tables.exists()


def test_triton_kernels_that_fail_do_not_cost_the_others_their_figures(benchmarks, monkeypatch):
    run, case = benchmarks("run"), benchmarks("gpu_cases").GPU_CASES[0]

    def measure(case, direction, compiled, kernels):
        if "triton" in kernels:
            raise ValueError("at 3:4:\n  no such layout")
        return SimpleNamespace(summary=lambda: {"kernels": kernels})

    available = SimpleNamespace(available=True)
    monkeypatch.setattr(kvmem, "backends", lambda: {"cuda": available, "triton": available})
    monkeypatch.setattr(run, "GpuMeasurement", measure)
    failures = []
    assert run.measured(case, "forward", True, failures) == [{"kernels": ("cuda",)}]
    assert failures == ["B=1, 128², bfloat16, forward, cuda and triton: ValueError: at 3:4: no such layout"]


def test_the_attention_composition_is_the_layer(benchmarks):
    """The contenders agree: make_gpu_contenders raises where they don't. On the CPU, where its images are small."""
    cases = benchmarks("gpu_cases")
    small = replace(cases.GPU_CASES[0], batch=2, size=6, dtype=torch.float32, device="cpu")
    for direction in cases.GPU_DIRECTIONS:
        contenders = cases.make_gpu_contenders(small, direction, compiled=False)
        assert set(contenders) == {"eager", "attention"}


def test_every_bound_moves_what_the_cost_model_says(benchmarks):
    cases = benchmarks("gpu_cases")
    case = replace(cases.GPU_CASES[0], batch=2, size=6, device="cpu")
    for direction, bound in cases.make_bounds(case).items():
        bound()
        assert case.copies(direction) == {"forward": 1, "backward": 1.5, "forward + backward": 2.5}[direction]
