"""The gradient penalty in a step of training, however its networks run."""

from __future__ import annotations

import copy

import pytest
import torch
from kvmgan_training import assert_near, tiny_batch, tiny_options, tiny_step
from torch import Tensor
from torch.nn.utils import parametrize

from kvmgan.data.pixels import to_scales

WAYS = [{}, {"compile": True}, {"checkpoint_activations": True}, {"accumulation": 2}]


@pytest.mark.parametrize("how", WAYS, ids=lambda way: next(iter(way), "plain"))
def test_the_gradient_penalty_is_paid_at_its_interval(monkeypatch, fresh_compiler, how):
    """Every third step: the discriminators' gradients are then those of loss + 3 * weight * penalty, by hand.

    The generator's first step doesn't know of it.
    """
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **o: compiling(self, backend="aot_eager", **o))
    tried = {"gradient_penalty": 0.7, "gradient_penalty_interval": 3, **how}
    (plain_step, plain), (step, state) = tiny_step(tiny_options(**how)), tiny_step(tiny_options(**tried))
    for number in range(4):
        for one in (plain, state):
            one.step = number
        batch = tiny_batch(tiny_options(), number)
        real = to_scales(batch.pixels, state.generator.sizes)
        state.generator.load_state_dict(plain.generator.state_dict())
        state.discriminators.load_state_dict(plain.discriminators.state_dict())
        before = copy.deepcopy(state.discriminators)
        losses, expected = step(state, batch), plain_step(plain, batch)
        paid = {name for name in losses if name.endswith("penalty")}
        assert paid == ({"d16_penalty", "d32_penalty"} if number == 2 else set())
        if number == 0:
            assert losses["g"].item() == expected["g"].item()
        sentence = step.encoders.encode(batch.tokens, batch.lengths)[1]
        for net, start, plainly, image in zip(state.discriminators, before, plain.discriminators, real, strict=True):
            if number == 2:
                # Spectral norms move on with every part.
                chunks = (given.chunk(how.get("accumulation", 1)) for given in (image, sentence))
                parts = zip(*chunks, strict=True)
                penalty = torch.stack([_penalty_by_hand(start, *part) for part in parts]).mean()
                assert losses[f"d{net.size}_penalty"].item() == pytest.approx(penalty.item(), rel=1e-4)
                added = torch.autograd.grad(3 * 0.7 * penalty, list(start.parameters()), allow_unused=True)
            for place, (mine, theirs) in enumerate(zip(net.parameters(), plainly.parameters(), strict=True)):
                more = 0 if number != 2 or added[place] is None else added[place]
                assert_near(mine.grad, theirs.grad + more)


def _penalty_by_hand(discriminator, real: Tensor, sentence: Tensor) -> Tensor:
    """Half the mean squared gradient, picture by picture, after the spectral norms have moved on once."""
    with parametrize.cached():
        total = 0.0
        for image, own in zip(real.split(1), sentence.split(1), strict=True):
            image, own = image.clone().requires_grad_(), own.clone().requires_grad_()
            features = discriminator.trunk(image)
            logit = (discriminator.unconditional(features) + discriminator.conditional(features, own)).sum()
            gradients = torch.autograd.grad(logit, (image, own), create_graph=True)
            total = total + sum(gradient.square().sum() for gradient in gradients) / 2
        return total / len(real)
