"""The choice of arithmetic."""

from __future__ import annotations

import pytest
import torch

from kvmgan.training import precision as module
from kvmgan.training.precision import GuardedOptimizer, Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "chosen"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(monkeypatch, capabilities, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert Precision.choose("auto", CPU).name == chosen


def test_memory_format_follows_the_arithmetic(monkeypatch):
    """channels_last for 16 bits where the device is fast at them and for float32 with AVX-512, else as asked for."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    last, plain = torch.channels_last, torch.contiguous_format
    found = {name: Precision(name, CPU).memory_format("auto") for name in ("float32", "bfloat16", "float16")}
    assert found == {"float32": plain, "bfloat16": last, "float16": last}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx2": True}, raising=False)
    assert Precision("float32", CPU).memory_format("auto") is last
    assert Precision("float32", torch.device("cuda")).memory_format("auto") is plain
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert Precision("float32", CPU).memory_format("auto") is plain
    assert Precision("bfloat16", CPU).memory_format("auto") is plain
    assert Precision("float32", CPU).memory_format("channels_last") is last
    assert Precision("bfloat16", CPU).memory_format("contiguous") is plain


@pytest.mark.parametrize(("supported", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_gpu_asks_it(monkeypatch, supported, chosen):
    """Emulated bfloat16 doesn't count."""
    asked = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(including_emulation) or supported
    )
    assert Precision.choose("auto", torch.device("cuda")).name == chosen
    assert asked == [False]


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_products_run_in_the_type_and_float32_stays(name, dtype):
    a = torch.randn(3, 3)
    with Precision.choose(name, CPU).autocast():
        assert (a @ a).dtype == dtype
    with Precision.choose("float32", CPU).autocast():
        assert (a @ a).dtype == torch.float32


def _optimizer() -> tuple[torch.nn.Linear, torch.optim.Adam]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 2)
    return layer, torch.optim.Adam(layer.parameters(), 0.1, fused=True)


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_a_finite_step_is_adams(name):
    """Whatever the scale, the step is that of plain Adam on the unscaled loss."""
    guarded = GuardedOptimizer(Precision(name, CPU))
    layer, optimizer = _optimizer()
    plain_layer, plain = _optimizer()
    for value in (1.0, 2.0):
        x = torch.full((1, 2), value)
        loss = layer(x).square().sum()
        optimizer.zero_grad()
        loss.backward(gradient=guarded.seed(loss))
        assert guarded.step(optimizer)
        guarded.update()
        plain.zero_grad()
        plain_layer(x).square().sum().backward()
        plain.step()
        torch.testing.assert_close(layer.weight, plain_layer.weight)


def test_an_infinite_loss_with_finite_gradients_skips_too():
    """A constant that overflows has no gradient of its own."""
    guarded = GuardedOptimizer(Precision("float32", CPU))
    layer, optimizer = _optimizer()
    before = layer.weight.clone()
    loss = layer(torch.ones(1, 2)).sum() + float("inf")
    loss.backward(gradient=guarded.seed(loss))
    assert not guarded.step(optimizer)
    assert torch.equal(layer.weight, before) and not optimizer.state_dict()["state"].get(0, {}).get("step", 0)


def test_the_scale_doubles_after_a_long_run_of_good_steps(monkeypatch):
    """float16's scale follows torch's own schedule."""
    guarded = GuardedOptimizer(Precision("float16", CPU))
    guarded.scaler.set_growth_interval(3)
    layer, optimizer = _optimizer()
    for _ in range(3):
        loss = layer(torch.ones(1, 2)).sum()
        optimizer.zero_grad()
        loss.backward(gradient=guarded.seed(loss))
        guarded.step(optimizer)
        guarded.update()
    assert guarded.scaler.get_scale() == 2.0**17
    assert module.GuardedOptimizer(Precision("bfloat16", CPU)).scaler.get_scale() == 1.0
