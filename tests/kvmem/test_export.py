"""torch.export and AOTInductor: programs of the layer with every size free, and without Python of ours."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from kvmem_exported import LAYOUTS, SIZES, Autocast, Layout, Reader, WithAttention, called, exported
from torch import Tensor, nn

import kvmem
from kvmem.library import LIBRARY

OPERATOR = "kvmem.kv_memory.default"


def assert_same_at_every_size(program: nn.Module, model: nn.Module, layout: Layout, mask: bool = True) -> None:
    """To the bit, in the same memory format."""
    for sizes in SIZES:
        inputs = layout.inputs(*sizes, mask)
        found, expected = program(*inputs), model(*inputs)
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        for mine, theirs in pairs:
            assert torch.equal(mine, theirs) and mine.stride() == theirs.stride(), sizes


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_is_free(extension, layout, mask):
    """Batch, slots and spatial sizes, one of each too: the fused operator, with and without attention."""
    layout = LAYOUTS[layout]
    layer = layout.layer("cpu")
    for model in (layer, WithAttention(layer)):
        program = exported(model, layout, mask)
        assert called(program).count(OPERATOR) == 1
        assert_same_at_every_size(program.module(), model, layout, mask)


def test_autocast_within_a_program(extension):
    """A region of autocast holds the fused operator, whose result is in bfloat16."""
    model = Autocast(LAYOUTS["image"].layer("cpu"))
    program = exported(model, LAYOUTS["image"])
    assert OPERATOR in called(program)
    assert program.module()(*LAYOUTS["image"].inputs(*SIZES[1])).dtype == torch.bfloat16
    assert_same_at_every_size(program.module(), model, LAYOUTS["image"])


def test_decompositions_keep_the_operator(extension):
    """Those of PyTorch have none of it."""
    layer = LAYOUTS["image"].layer("cpu")
    program = exported(layer, LAYOUTS["image"]).run_decompositions()
    assert OPERATOR in called(program)
    assert_same_at_every_size(program.module(), layer, LAYOUTS["image"])


@pytest.mark.parametrize(
    "layout, wrapped",
    [*((layout, WithAttention) for layout in LAYOUTS), ("image", Autocast), ("tokens", Autocast), ("image", Reader)],
)
def test_decomposed_to_the_eager_form(extension, layout, wrapped):
    """`kvmem.decompositions` leaves operators of PyTorch alone, that compute what the eager form does."""
    layout = LAYOUTS[layout]
    program = exported(wrapped(layout.layer("cpu")), layout)
    assert any(name.startswith("kvmem") for name in called(program))
    program = program.run_decompositions(kvmem.decompositions())
    assert "aten.sigmoid.default" in called(program)
    assert not any("kvmem" in name for name in called(program))
    assert_same_at_every_size(program.module(), wrapped(layout.layer("eager")), layout)


def test_a_program_can_be_trained(extension):
    """With kvmem imported: the gradients of the layer, by the fused backward."""
    layout = LAYOUTS["image"]
    layer, inputs = layout.layer("cpu"), layout.inputs(*SIZES[1])
    module = exported(layer, layout).module()
    found = torch.autograd.grad(module(*inputs).square().sum(), list(module.parameters()))
    expected = torch.autograd.grad(layer(*inputs).square().sum(), list(layer.parameters()))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def in_a_process_without_kvmem(script: str, folder: Path) -> None:
    """Runs a script in a folder where only torch is imported; it finds the names that each of these scripts needs."""
    begin = f"""
import sys, warnings, torch
library = {str(LIBRARY)!r}
cases = torch.load("cases.pt")
def same(program):
    for inputs, outputs in cases:
        for mine, theirs in zip(program(*inputs), outputs, strict=True):
            assert torch.equal(mine, theirs)
"""
    end = "\nassert 'kvmem' not in sys.modules"
    command = [sys.executable, "-c", begin + textwrap.dedent(script) + end]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def save_cases(model: nn.Module, folder: Path, layout: Layout = LAYOUTS["image"]) -> None:
    cases: list[tuple[list[Tensor], list[Tensor]]] = []
    with torch.no_grad():
        for sizes in SIZES:
            inputs = layout.inputs(*sizes)
            cases.append((inputs, list(model(*inputs))))
    torch.save(cases, folder / "cases.pt")


def test_a_saved_program_runs_without_python_of_ours(extension, tmp_path):
    """The library alone runs it, and a decomposed one nothing; there are no shapes for tracing, and no derivatives."""
    model = WithAttention(LAYOUTS["image"].layer("cpu"))
    program = exported(model, LAYOUTS["image"])
    torch.export.save(program, tmp_path / "program.pt2")
    torch.export.save(program.run_decompositions(kvmem.decompositions()), tmp_path / "decomposed.pt2")
    save_cases(model, tmp_path)
    script = """
    decomposed = torch.export.load("decomposed.pt2").module()
    for inputs, outputs in cases:
        for mine, theirs in zip(decomposed(*inputs), outputs, strict=True):
            torch.testing.assert_close(mine, theirs)
    torch.ops.load_library(library)
    program = torch.export.load("program.pt2")
    same(program.module())
    try:
        program.run_decompositions()
    except torch._subclasses.fake_tensor.UnsupportedOperatorException as error:
        assert "kvmem.kv_memory" in str(error)
    else:
        raise AssertionError("traced without a fake kernel")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        program.module()(*cases[0][0])[0].sum().backward()
    assert "an autograd kernel was not registered" in str(seen[0].message)
    """
    in_a_process_without_kvmem(script, tmp_path)


class Around(WithAttention):
    """Followed by code that the compiler makes for the sizes and strides that it takes the outputs to have."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        out, attention = super().forward(*inputs)
        return out.abs(), attention.transpose(2, 3) * 2


def test_an_aot_inductor_package_runs_without_python_of_ours(extension, fresh_compiler, tmp_path):
    """At sizes that it wasn't compiled for; without the library it says what it needs."""
    model = Around(LAYOUTS["channels_last"].layer("cpu"))
    program = exported(model, LAYOUTS["channels_last"])
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "package.pt2"))
    save_cases(model, tmp_path, LAYOUTS["channels_last"])
    script = """
    try:
        torch._inductor.aoti_load_package("package.pt2")(*cases[0][0])
    except RuntimeError as error:
        assert "kvmem::kv_memory" in str(error)
    else:
        raise AssertionError("ran without the library")
    torch.ops.load_library(library)
    same(torch._inductor.aoti_load_package("package.pt2"))
    """
    in_a_process_without_kvmem(script, tmp_path)
