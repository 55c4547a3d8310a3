"""What several processes are to compute as one does: run by torchrun, or alone, it saves what came out.

``torchrun --nproc-per-node 2 parallel_checks.py FOLDER [DEVICE [CHECK...]]``: the checks on a device, cpu or cuda, by
default all on the CPU; each process writes ``FOLDER/<rank>.pt``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kvmgan_training import WORDS, tiny_batch, tiny_options, tiny_step
from torch import Tensor, nn

from kvmgan.config import DamsmOptions
from kvmgan.data.samples import Batch
from kvmgan.parallel import processes
from kvmgan.parallel.batch_norm import spanning
from kvmgan.parallel.exchange import GradientSum, gathered, gathered_for_all, own_batch, summed, take_buffers_of_leader
from kvmgan.parallel.processes import joined
from kvmgan.parallel.shares import own_share, together
from kvmgan.pretraining.damsm_pretraining import DamsmState, damsm_step
from kvmgan.pretraining.encoders import EncoderShape, build_image_encoder, build_text_encoder

# This process's, once it is known.
device = torch.device("cpu")


def shared(batch: Batch, parts: int = 1) -> Batch:
    """This process's rows of a batch, on its device."""
    rows = processes.own_rows(len(batch.tokens), parts)
    return replace(batch, **{name: getattr(batch, name)[rows] for name in vars(batch)}).to(device)


def tensors_of(**modules: nn.Module) -> dict[str, Tensor]:
    """Weights, buffers and gradients."""
    found = {f"{kind}.{name}": value for kind, one in modules.items() for name, value in one.state_dict().items()}
    for kind, one in modules.items():
        found |= {f"{kind}.{n} gradient": p.grad for n, p in one.named_parameters() if p.grad is not None}
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def steps(refinement: str = "memory", count: int = 1, **training: Any) -> dict[str, Any]:
    """Adversarial steps of a batch of 8, the networks in float64; the losses of each, all tensors after the last."""
    options = tiny_options("eager", batch_size=8, **training)
    options = replace(options, model=replace(options.model, refinement=refinement))
    step, state = tiny_step(options, device)
    for module in (step.encoders.text, step.encoders.image, state.generator, state.discriminators, state.average.model):
        module.double()
    losses = []
    for number in range(count):
        batch = tiny_batch(options, number)
        # Captions of one class are no negatives of each other, wherever they are.
        batch = replace(batch, class_ids=batch.class_ids % 5)
        found = step(state, shared(batch, options.training.accumulation))
        losses.append({name: summed(value).item() for name, value in found.items()})
    modules = {"generator": state.generator, "discriminators": state.discriminators, "average": state.average.model}
    return {"losses": losses, "skipped": state.skipped.item(), "tensors": tensors_of(**modules)}


def unsynchronised() -> dict[str, Any]:
    """Two steps with batch statistics of each process's own, and what evaluation then sees."""
    options = tiny_options("eager", batch_size=8, sync_batch_norm=False)
    step, state = tiny_step(options, device)
    for number in range(2):
        step(state, shared(tiny_batch(options, number)))
    own = tensors_of(generator=state.generator, discriminators=state.discriminators, average=state.average.model)
    take_buffers_of_leader(state.average.model)
    return {"own": own, "average": tensors_of(average=state.average.model)}


def compiled() -> dict[str, Any]:
    """A step whose networks are compiled, by the compiler's front end alone, for time."""
    compiling = nn.Module.compile
    nn.Module.compile = lambda self, **options: compiling(self, backend="aot_eager", **options)
    try:
        found = steps(compile=True)
        assert torch._dynamo.utils.counters["frames"]["ok"] > 0
        return found
    finally:
        nn.Module.compile = compiling


def not_finite() -> dict[str, Any]:
    """A step in which one picture of the first process alone is NaN; then a good one."""
    options = tiny_options("eager", batch_size=8)
    step, state = tiny_step(options, device)
    before = tensors_of(generator=state.generator, discriminators=state.discriminators)
    good, bad = step.encoders, copy.copy(step.encoders)
    nan = float("nan") if processes.leads() else 1.0
    bad.image = lambda images: tuple(x * nan for x in good.image(images))
    step.encoders = bad
    step(state, shared(tiny_batch(options)))
    after = tensors_of(generator=state.generator, discriminators=state.discriminators)
    kept = [name for name, value in before.items() if name.startswith("generator") and value.is_floating_point()]
    same = all(torch.equal(before[name], after[name]) for name in kept)
    step.encoders = good
    step(state, shared(tiny_batch(options)))
    return {"skipped": state.skipped.item(), "same": same, "finite": state.is_finite()}


def pretraining() -> dict[str, Any]:
    """Three steps of DAMSM pretraining, with dropout, of a batch of 8 in float64."""
    damsm = DamsmOptions(encoder="small", width=4, embedding_dim=8, word_dim=8, dropout=0.5, clip=0.05, lr=1e-2)
    torch.manual_seed(3)
    shape = EncoderShape.of(damsm)
    text = build_text_encoder(shape, WORDS, damsm.dropout).double()
    image = spanning(build_image_encoder(shape)).double()
    optimizer = torch.optim.Adam([*text.parameters(), *image.parameters()], lr=damsm.lr)
    state = DamsmState(0, text, _Double(image), optimizer)
    losses = []
    for number in range(3):
        batch = shared(tiny_batch(tiny_options(batch_size=8), number))
        # Clipped to one length, a gradient of the wrong length would be the right one: the last isn't clipped.
        settings = damsm if number < 2 else replace(damsm, clip=1e9)
        losses.append({name: value.item() for name, value in damsm_step(state, batch, settings, 32, 5).items()})
    return {"losses": losses, "tensors": tensors_of(text=text, image=image)}


class _Double(nn.Module):
    """Pictures come in float32."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images.double())


def batch_norm() -> dict[str, Any]:
    """One- and two-dimensional, forward, backward and statistics, in both modes, in three types."""
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    for shape in ((8, 5), (8, 5, 3, 4)):
        drawn, upstream = torch.randn(shape), torch.randn(shape)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            # Large means, where a difference of squares would have no digit left in float32.
            features = drawn + (2 if dtype == torch.bfloat16 else 1000)
            norm = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(5, dtype=torch.float32)
            nn.init.uniform_(norm.weight)
            norm = spanning(norm.double() if dtype == torch.float64 else norm)
            given = own_batch(features.to(dtype)).clone().requires_grad_()
            output = norm(given)
            (output * own_batch(upstream)).sum().backward()
            GradientSum(norm.parameters()).finish()
            name = f"{len(shape)} {dtype}"
            found[name] = {
                "output": gathered(output.detach()),
                "gradient": gathered(given.grad),
                "dtype": str(output.dtype),
                **tensors_of(norm=norm),
                "evaluated": norm.eval()(features.to(dtype)).detach(),
            }
    return found


def exchange() -> dict[str, Any]:
    """Sums and batches with their gradients; what the processes agree on."""
    rank = processes.rank()
    own = torch.tensor([1.0, 2.0]) + 10 * rank
    own.requires_grad_()
    whole = gathered(own)
    # A loss of the whole batch, computed by every process.
    (whole * torch.arange(len(whole))).square().sum().backward()
    summand = torch.tensor([3.0 + rank], requires_grad=True)
    (gathered_for_all(summand) * (rank + 1)).sum().backward()
    halves = together({"numbers": own_share(torch.arange(7))[:, None]})
    with processes.leader_first():
        pass
    return {
        "gathered": whole.detach(),
        "gradient": gathered(own.grad),
        "of_all": summand.grad.item(),
        "mask": gathered(torch.tensor([rank == 0, True])),
        "agreed": processes.agreed(5 + rank),
        "of_leader": processes.of_leader({"from": rank}),
        "together": halves["numbers"].flatten(),
        "rows": processes.own_rows(12, 3),
    }


CHECKS: dict[str, Callable[..., dict[str, Any]]] = {
    "exchange": exchange,
    "batch_norm": batch_norm,
    "pretraining": pretraining,
    "not_finite": not_finite,
    "step memory": steps,
    "step attention": lambda: steps("attention"),
    "step none": lambda: steps("none"),
    "step accumulation": lambda: steps(accumulation=2),
    "step penalty": lambda: steps(gradient_penalty=1.0, gradient_penalty_interval=1),
    "step compiled": compiled,
    "unsynchronised": unsynchronised,
    "step checkpointing": lambda: steps(checkpoint_activations=True),
    "twenty steps": lambda: steps(count=20, lr_generator=1e-4, lr_discriminator=1e-4),
}


def main(folder: str, kind: str = "cpu", *names: str) -> None:
    """Run the checks that are named, or all, and save what they return."""
    global device
    torch.set_num_threads(1)
    with joined(torch.device(kind)) as device:
        found = {name: CHECKS[name]() for name in names or CHECKS}
        torch.save(found, Path(folder, f"{processes.rank()}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
