"""torch.onnx.export of the layer: the eager form whatever the backend, as other people's runtimes compute it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from kvmem_exported import LAYOUTS, SIZES, TRACED, Layout, Reader, WithAttention, exported
from kvmem_problems import CalledOperators
from numpy import ndarray
from torch import Tensor, nn

import kvmem

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

Run = Callable[[Sequence[Tensor]], list[ndarray]]


def with_reference(path: Path) -> Run:
    """By the evaluator of the onnx package, in numpy."""
    from onnx.reference import ReferenceEvaluator

    judge = ReferenceEvaluator(str(path))
    return lambda inputs: judge.run(None, dict(zip(judge.input_names, (x.numpy() for x in inputs), strict=True)))


def with_onnxruntime(path: Path) -> Run:
    loaded = pytest.importorskip("onnxruntime").InferenceSession(path)
    names = [given.name for given in loaded.get_inputs()]
    return lambda inputs: loaded.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def like_parameters(model: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """In the type of a model's parameters."""
    dtype = next(model.parameters()).dtype
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def quietly(*arguments: object, **settings: object) -> torch.onnx.ONNXProgram | None:
    """The exporters warn of names that two inputs share, and that the old one of them is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(*arguments, verbose=False, **settings)


def export(model: nn.Module, layout: Layout, path: Path, mask: bool = True) -> None:
    """As its user would, with every size free."""
    dynamic = layout.dynamic(mask)
    shapes = (dynamic,) if isinstance(model, WithAttention) else dynamic
    quietly(model, like_parameters(model, layout.inputs(*TRACED, mask)), path, dynamo=True, dynamic_shapes=shapes)


def export_program(model: nn.Module, layout: Layout, path: Path) -> None:
    """From a program that holds the fused operator."""
    quietly(exported(model, layout).run_decompositions(kvmem.decompositions()), (), path)


def export_by_torchscript(model: nn.Module, layout: Layout, path: Path) -> None:
    """By the exporter before this one."""
    free = {f"input{i}": list(sizes) for i, sizes in enumerate(layout.dynamic())}
    quietly(
        model,
        tuple(layout.inputs(*TRACED)),
        path,
        dynamo=False,
        input_names=list(free),
        output_names=["out", "attention"],
        dynamic_axes={**free, "out": [0, 2, 3], "attention": [0, 1, 2, 3]},
    )


@dataclass(frozen=True)
class Case:
    """A model around a layer, and how it is exported."""

    layout: Layout = LAYOUTS["image"]
    mask: bool = True
    write: Callable[[nn.Module, Layout, Path], None] = export
    model: Callable[[nn.Module], nn.Module] = WithAttention


CASES = {
    "image": Case(),
    "tokens": Case(LAYOUTS["tokens"]),
    "no mask": Case(mask=False, write=lambda *given: export(*given, mask=False)),
    "reading": Case(model=Reader),
    "program": Case(write=export_program),
    "torchscript": Case(write=export_by_torchscript),
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory) -> tuple[Path, Case]:
    """A model of a layer with its backend, "cpu", named where it can be."""
    case = CASES[request.param]
    path = tmp_path_factory.mktemp("onnx") / "layer.onnx"
    layer = case.layout.layer("cpu" if kvmem.backends()["cpu"].available else None)
    case.write(case.model(layer).eval(), case.layout, path)
    return path, case


@pytest.mark.parametrize("runtime", [with_reference, with_onnxruntime])
def test_a_runtime_computes_the_layer(saved, runtime):
    """Response and attention at every size, an image without a word among them, against the eager form in float64."""
    path, case = saved
    # In float64 last: the same random numbers.
    model, run = case.model(case.layout.layer("eager")).double(), runtime(path)
    for sizes in SIZES:
        inputs = case.layout.inputs(*sizes, case.mask)
        expected = model(*like_parameters(model, inputs))
        for mine, theirs in zip(run(inputs), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(mine).double(), theirs, rtol=1e-5, atol=1e-6)


def test_float16_is_computed_in_float32(tmp_path):
    """As by every backend: logits beyond the largest number of float16 are no infinities."""
    layout = LAYOUTS["image"]
    layer = layout.layer(dtype=torch.float16)
    with torch.no_grad():
        layer.key.weight.mul_(2e5)
    export(layer, layout, tmp_path / "half.onnx")
    inputs = like_parameters(layer, layout.inputs(*SIZES[1]))
    (found,) = with_reference(tmp_path / "half.onnx")(inputs)
    assert found.dtype == "float16"
    torch.testing.assert_close(torch.from_numpy(found), layer(*inputs).detach(), rtol=0, atol=4e-3)


def test_calls_after_an_export_are_fused(extension, tmp_path):
    """And after one that failed, and beside a torch.onnx that was imported."""
    layout = LAYOUTS["image"]
    layer, inputs = layout.layer("cpu"), layout.inputs(*TRACED)
    with pytest.raises(torch.onnx.OnnxExporterError):
        quietly(layer, tuple(inputs[:1]), tmp_path / "none.onnx", dynamo=True)
    with CalledOperators() as called:
        layer(*inputs)
    assert called.names.count("kvmem::kv_memory") == 1
