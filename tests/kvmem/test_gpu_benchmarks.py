"""What the GPU benchmarks make of their measurements, on made-up ones: tables, bars, roofline."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Imports a module of the benchmarks' folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def measured(case, direction, fused, eager, compiled, bound, launches=1, fused_peak=3, eager_peak=10):
    times = {"fused": fused, "eager": eager, "compiled": compiled, "sdpa": eager, "bound": bound}
    return {
        "case": case,
        "direction": direction,
        "dtype": case.split(", ")[-1],
        "milliseconds": times,
        "eager_over_fused": eager / fused,
        "compiled_over_fused": compiled / fused,
        "sdpa_over_fused": eager / fused,
        "fused_over_bound": fused / bound,
        "flops": 4e9,
        "bytes": 1e8,
        "fused_bytes_per_second": 2e12,
        "bound_bytes_per_second": 3e12,
        "launches": {"fused": launches, "eager": 20},
        "peak_bytes": {"fused": fused_peak, "eager": eager_peak},
    }


@pytest.fixture
def record(benchmarks):
    cases = benchmarks("gpu_cases")
    results = [
        measured(cases.MAIN, "forward", 0.05, 0.6, 0.09, 0.045),
        measured(cases.MAIN, "forward + backward", 0.14, 1.4, 0.35, 0.11, launches=4),
        measured(cases.STAGE_TWO, "forward", 0.01, 0.05, 0.02, 0.008, launches=2),
    ]
    machine = {"device": "a GPU", "torch": "2.11", "cuda": "13.0", "commit": "abc"}
    machine["gemm_flops_per_second"] = {"float32": 5e13, "bfloat16": 7e14, "float16": 7e14}
    return {"machine": machine, "bars": benchmarks("gpu_report").bars(results), "results": results}


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
    }


def test_the_tables_and_the_roofline_come_from_the_record(record, tmp_path):
    source, tables, picture = (tmp_path / name for name in ("gpu.json", "tables.md", "roofline.png"))
    source.write_text(json.dumps(record))
    command = [sys.executable, BENCHMARKS / "plot.py", source, "--tables", tables]
    plots = importlib.util.find_spec("matplotlib") is not None
    subprocess.run([*command, *(["--roofline", picture] if plots else [])], check=True)
    text = tables.read_text()
    assert "| B=32, 128², bfloat16 | forward | 0.0500 | 0.0450 | 1.11 |" in text
    assert "| B=10, 64², bfloat16: launches forward | 2 | 1 |  | no |" in text
    assert picture.exists() == plots


def test_the_attention_composition_is_the_layer(benchmarks):
    """The contenders agree: make_gpu_contenders raises where they don't. On the CPU, where its images are small."""
    cases = benchmarks("gpu_cases")
    small = replace(cases.GPU_CASES[0], batch=2, size=6, dtype=torch.float32, device="cpu")
    for direction in cases.GPU_DIRECTIONS:
        contenders = cases.make_gpu_contenders(small, direction, compiled=False)
        assert set(contenders) >= {"eager", "sdpa"}


def test_every_bound_moves_what_the_cost_model_says(benchmarks):
    cases = benchmarks("gpu_cases")
    case = replace(cases.GPU_CASES[0], batch=2, size=6, device="cpu")
    for direction, bound in cases.make_bounds(case).items():
        bound()
        assert case.copies(direction) == {"forward": 1, "backward": 1.5, "forward + backward": 2.5}[direction]
