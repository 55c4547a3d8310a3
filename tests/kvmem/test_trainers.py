"""The layer trained by other people's loops, Lightning and Accelerate: as by a plain one, on the fused kernels."""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch
from kvmem_problems import CalledOperators
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import kvmem

STEPS = 3
pytestmark = pytest.mark.usefixtures("extension")


class Model(nn.Module):
    """A convolution, the layer, and a loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Conv2d(3, 8, 1)
        self.layer = kvmem.KVMemoryLayer(8, 12, backend="cpu")

    def forward(self, image: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        return self.layer(self.before(image), words, mask).float().square().mean()


def batches() -> DataLoader:
    """Two images each."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2 * STEPS, 3, 4, 5, generator=generator)
    words = torch.randn(2 * STEPS, 6, 12, generator=generator)
    mask = torch.rand(2 * STEPS, 6, generator=generator) < 0.6
    return DataLoader(TensorDataset(image, words, mask), batch_size=2)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def plainly_trained(autocast: contextlib.AbstractContextManager) -> Model:
    model = Model()
    optimizer = optimizer_of(model)
    for batch in batches():
        optimizer.zero_grad()
        with autocast:
            loss = model(*batch)
        loss.backward()
        optimizer.step()
    return model


def assert_same_parameters(found: nn.Module, expected: nn.Module) -> None:
    """Bit for bit; and they were trained."""
    start = dict(Model().named_parameters())
    mine = dict(found.named_parameters())
    for name, theirs in expected.named_parameters():
        assert torch.equal(mine[name], theirs) and not torch.equal(theirs, start[name]), name


def assert_fused(called: CalledOperators) -> None:
    assert [called.names.count(f"kvmem::{name}") for name in ("kv_memory", "kv_memory_backward")] == [STEPS, STEPS]


def test_lightning():
    """A LightningModule that holds the layer."""
    lightning = pytest.importorskip("pytorch_lightning")

    class Trained(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return self.model(*batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(self)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module = Trained()
    with warnings.catch_warnings(), CalledOperators() as called:
        warnings.simplefilter("ignore")  # Of workers for so few data
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
        trainer.fit(module, batches())
    assert_fused(called)
    assert_same_parameters(module.model, plainly_trained(contextlib.nullcontext()))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision):
    """What `prepare` returns, in mixed precision too."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    model = Model()
    prepared, optimizer, loader = accelerator.prepare(model, optimizer_of(model), batches())
    with CalledOperators() as called:
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(prepared(*batch))
            optimizer.step()
    assert_fused(called)
    half = called.arguments["kvmem::kv_memory"][0].dtype == torch.bfloat16
    assert half == (precision == "bf16")
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
    assert_same_parameters(accelerator.unwrap_model(prepared), plainly_trained(autocast))
