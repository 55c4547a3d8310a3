"""One step of training: against a plain step by another hand, skipped where it isn't finite, never waiting."""

from __future__ import annotations

import copy
import inspect
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kvmgan_training import assert_near, tiny_batch, tiny_options, tiny_step
from torch import Tensor

from kvmgan.training.state import TrainingState
from kvmgan.training.step import TrainingStep

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def plain_training(monkeypatch):
    """The plain step of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import plain_training

    yield plain_training
    sys.modules.pop("plain_training")


def _gradients(state: TrainingState) -> dict[str, Tensor]:
    networks = {"generator": state.generator, "discriminators": state.discriminators}
    return {f"{k}.{n}": p.grad.clone() for k, module in networks.items() for n, p in module.named_parameters()}


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    modules = {"generator": state.generator, "average": state.average.model, "discriminators": state.discriminators}
    found = {f"{k}.{n}": t.clone() for k, module in modules.items() for n, t in module.state_dict().items()}
    for name, optimizer in state.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            found |= {f"{name} optimizer.{index}.{key}": value.clone() for key, value in moments.items()}
    return found


@pytest.mark.parametrize("refinement", ["memory", "attention", "none"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"checkpoint_activations": True}, {"memory_format": "channels_last"}],
    ids=lambda s: next(iter(s), "plain"),
)
def test_equals_a_plain_step(plain_training, refinement, settings):
    """Every gradient, running statistic, average and loss of the first step, the networks in float64.

    In float32 another order of sums may put a number on the other side of its ReLU.
    """
    # Discriminators that hardly move: the plain step estimates their spectral norms in more passes.
    options = tiny_options("eager", lr_discriminator=1e-9, kl_weight=0.7, **settings)
    options = replace(options, model=replace(options.model, refinement=refinement))
    step, state = tiny_step(options)
    _to_float64(step, state)
    generator, average = copy.deepcopy(state.generator), copy.deepcopy(state.average.model)
    discriminators = copy.deepcopy(state.discriminators)
    plain = plain_training.PlainTraining(
        generator, average, discriminators, step.encoders, options.training, options.damsm
    )
    batch = tiny_batch(options)

    losses = step(state, batch)
    expected = plain.step(batch)

    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-6), name
    names = {"generator": generator, "discriminators": discriminators}
    mine = _gradients(state)
    for kind, module in names.items():
        for name, parameter in module.named_parameters():
            if kind == "generator":
                assert_near(mine[f"{kind}.{name}"], parameter.grad)
    for name, value in average.state_dict().items():
        # Adam's first step has the size of the learning rate whatever the gradient: a tiny one may have either sign.
        torch.testing.assert_close(state.average.model.state_dict()[name], value, rtol=1e-4, atol=3e-4)
    for name, value in generator.named_buffers():
        torch.testing.assert_close(dict(state.generator.named_buffers())[name], value, rtol=1e-6, atol=1e-8)


def test_a_compiled_step_is_the_eager_one(fresh_compiler, monkeypatch):
    """Three steps with generator, discriminators and image encoder compiled: the losses agree to float32's rounding.

    Traced and run without a code generator, for time; that of the default compiler is tested a network at a time.
    """
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **o: compiling(self, backend="aot_eager", **o))
    options = tiny_options(lr_generator=1e-3, lr_discriminator=1e-3)
    compiled = replace(options, training=replace(options.training, compile=True))
    (eager_step, eager), (step, state) = tiny_step(options), tiny_step(compiled)
    networks = [state.generator, *state.discriminators, step.encoders.image]
    assert all(network._compiled_call_impl is not None for network in networks)
    assert eager.generator._compiled_call_impl is None and state.average.model._compiled_call_impl is None
    for number in range(3):
        batch = tiny_batch(options, number)
        expected, found = eager_step(eager, batch), step(state, batch)
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value.item(), rel=2e-3, abs=1e-4), name


def test_no_discriminator_runs_eagerly_for_the_graphs_of_the_others(fresh_compiler, monkeypatch):
    """Torch gives up on code that was compiled too often, with a warning alone: here from the third graph on."""
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        pytest.skip("this torch counts the graphs of all networks together")
    compiling = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **o: compiling(self, backend="eager", **o))
    options = tiny_options()
    step, state = tiny_step(replace(options, training=replace(options.training, compile=True)))
    assert len(state.discriminators) > 1
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for number in range(2):
            step(state, tiny_batch(options, number))


@pytest.mark.parametrize("bad_at", ["text", "image"])
def test_a_step_that_is_not_finite_changes_nothing(bad_at):
    """NaN in what the encoders say: weights, moments and running statistics stay; it is counted, then forgotten."""
    options = tiny_options()
    step, state = tiny_step(options)
    step(state, tiny_batch(options, 1))
    before, good = _tensors(state), copy.copy(step.encoders)
    bad = copy.copy(good)

    if bad_at == "text":
        bad.encode = lambda tokens, lengths: tuple(
            x if x.dtype == torch.bool else x * float("nan") for x in good.encode(tokens, lengths)
        )
    else:
        bad.image = lambda images: tuple(x * float("nan") for x in good.image(images))
    step.encoders = bad
    losses = step(state, tiny_batch(options, 2))
    assert not losses["g"].isfinite()
    changed = [name for name, value in _tensors(state).items() if not torch.equal(before[name], value)]
    kept = ["generator.", "generator optimizer"]
    if bad_at == "text":
        kept += ["discriminators.", "discriminator optimizer"]
    # The average takes another step towards the unchanged weights; counters of batches aren't used.
    assert [n for n in changed if n.startswith(tuple(kept)) and not n.endswith("num_batches_tracked")] == []
    if bad_at == "image":
        assert any(name.startswith("discriminator optimizer") for name in changed)
    assert state.is_finite()
    assert (state.skipped.item(), state.skipped_in_row.item()) == (1, 1)

    step.encoders = good
    step(state, tiny_batch(options, 3))
    assert (state.skipped.item(), state.skipped_in_row.item()) == (1, 0)
    assert any(not torch.equal(before[n], v) for n, v in _tensors(state).items() if n.startswith("generator."))


def test_discriminators_that_are_not_finite_stay_and_the_generator_goes_on():
    """One discriminator's gradient overflows: all of them stay as they were, and so do the running statistics."""
    options = tiny_options()
    step, state = tiny_step(options)
    before = _tensors(state)
    state.discriminators[0].unconditional_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    step(state, tiny_batch(options))
    assert (state.skipped.item(), state.skipped_in_row.item()) == (1, 1)
    changed = {
        name for name, value in _tensors(state).items() if name in before and not torch.equal(before[name], value)
    }
    kept = "discriminators.", "generator.initial.norm.running_mean"
    assert not [name for name in changed if name.startswith(kept)]
    assert "generator.heads.0.conv.weight" in changed


def test_the_average_forgets_the_start_by_the_step():
    """Weights after steps 0, 1, 2 taken in with 1 - 1/10, 1 - 2/11, 1 - 3/12, as of a straightforward loop."""
    options = tiny_options(ema_decay=0.999)
    step, state = tiny_step(options)
    average = state.generator.heads[0].conv.weight.detach().clone()
    for number in range(3):
        step(state, tiny_batch(options, number))
        decay = (1 + number) / (10 + number)
        average = decay * average + (1 - decay) * state.generator.heads[0].conv.weight.detach()
        torch.testing.assert_close(state.average.model.heads[0].conv.weight, average)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_network_computes_in_the_precision(precision):
    """What convolutions give in generator, discriminators and image encoder; the losses and pixels are float32's."""
    options = tiny_options(precision=precision)
    step, state = tiny_step(options)
    networks = {"generator": state.generator, "discriminators": state.discriminators, "image": step.encoders.image}
    seen = {name: set() for name in networks}
    for name, network in networks.items():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda _l, _i, output, name=name: seen[name].add(output.dtype))
    losses = step(state, tiny_batch(options))
    assert seen == {name: {getattr(torch, precision)} for name in networks}
    assert {value.dtype for value in losses.values()} == {torch.float32}


def test_a_gradient_that_is_not_finite_skips_too():
    """The losses are finite; only the gradient overflows."""
    options = tiny_options()
    step, state = tiny_step(options)
    before = _tensors(state)
    state.generator.heads[-1].conv.weight.register_hook(lambda gradient: gradient * float("inf"))
    losses = step(state, tiny_batch(options))
    assert all(value.isfinite() for value in losses.values())
    assert state.skipped.item() == 1
    assert torch.equal(before["generator.heads.0.conv.weight"], state.generator.heads[0].conv.weight)


def test_float16_scales_its_losses():
    """The scale begins at 2^16, the gradients are unscaled before the optimiser, and an overflow halves the scale."""
    options = tiny_options(precision="float16")
    step, state = tiny_step(options)
    scaler = state.guarded.scaler
    begin = scaler.get_scale()
    assert begin == 2.0**16
    skipped = 0
    for number in range(12):
        step(state, tiny_batch(options, number))
        if state.skipped.item() > skipped:
            skipped = state.skipped.item()
    assert scaler.get_scale() == begin / 2**skipped
    assert skipped < 12
    reference_step, reference = tiny_step(tiny_options())
    reference_step(reference, tiny_batch(options, 0))
    exact = _gradients(reference)["generator.heads.0.conv.weight"].norm()
    fresh_step, fresh = tiny_step(options)
    fresh.guarded.scaler.load_state_dict(scaler.state_dict())
    fresh_step(fresh, tiny_batch(options, 0))
    torch.testing.assert_close(_gradients(fresh)["generator.heads.0.conv.weight"].norm(), exact, rtol=0.1, atol=0)


def test_other_precisions_keep_a_scale_of_one():
    """bfloat16 and float32 gradients aren't scaled, not even after a skipped step."""
    options = tiny_options(precision="bfloat16")
    step, state = tiny_step(options)
    hook = state.generator.heads[-1].conv.weight.register_hook(lambda gradient: gradient * float("nan"))
    step(state, tiny_batch(options))
    hook.remove()
    step(state, tiny_batch(options))
    assert state.guarded.scaler.get_scale() == 1.0 and state.skipped.item() == 1


def test_the_seed_reaches_the_noise():
    """Seeds that agree in their low 32 bits, and neighbouring steps, draw other noise; the same pair draws the same."""
    drawn = {}
    for seed in (0, 1, 12345, 2**32, 2**32 + 1, 2**63 - 1):
        options = tiny_options(seed=seed)
        step, state = tiny_step(options)
        for number in (0, 1, 2**31):
            state.step = number
            (part,) = step._parts(state, tiny_batch(options))
            drawn[seed, number] = torch.cat((part.noise, part.condition_noise), dim=1)
            (again,) = step._parts(state, tiny_batch(options, 1))
            assert torch.equal(again.noise, part.noise) and torch.equal(again.condition_noise, part.condition_noise)
    values = [tuple(noise.flatten().tolist()) for noise in drawn.values()]
    assert len(set(values)) == len(drawn) == 18
    assert not {number for first in values[:1] for number in first} & {n for other in values[1:] for n in other}


def test_no_step_waits_for_the_device(monkeypatch):
    """A step reads no number off the device: nothing but the lengths, whole numbers on the host, is looked at."""
    options = tiny_options()
    step, state = tiny_step(options)
    step(state, tiny_batch(options, 1))

    def refuse(name):
        original = getattr(Tensor, name)

        def looked_at(self, *arguments, **keywords):
            if self.dtype == torch.int64:
                return original(self, *arguments, **keywords)
            raise AssertionError(f"Tensor.{name} waits for the device")

        monkeypatch.setattr(Tensor, name, looked_at)

    for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "nonzero"):
        refuse(name)
    step(state, tiny_batch(options, 2))
    monkeypatch.undo()
    assert state.step == 2


def test_accumulation_is_the_mean_over_parts(plain_training):
    """Batch 4 in parts of 2, against plain passes over each part: gradients, running statistics and losses."""
    options = tiny_options(backend="eager", accumulation=2, lr_discriminator=1e-9)
    step, state = tiny_step(options)
    _to_float64(step, state)
    batch = tiny_batch(options)
    parts = list(step._parts(state, batch))
    assert [len(part.noise) for part in parts] == [2, 2]
    generator, discriminators = copy.deepcopy(state.generator), copy.deepcopy(state.discriminators)
    losses = step(state, batch)

    total_d = total_g = 0
    for part in parts:
        given = (part.noise, part.sentence, part.words, part.mask, part.condition_noise)
        fakes, mu, log_variance = plain_training.plain_generator(generator, *given)
        for net, real, fake in zip(discriminators, part.images, fakes, strict=True):
            total_d = total_d + plain_training.plain_discriminator_loss(net, real, fake.detach(), part.sentence) / 2
            features = net(fake)
            for logits in (net.unconditional(features), net.conditional(features, part.sentence)):
                total_g = total_g + plain_training.cross_entropy(logits, 1.0) / 2
        seen = step.encoders.image(fakes[-1])
        matching = sum(plain_training.damsm_loss(seen, part.words, part.sentence, part.mask, part.captions.class_ids))
        kl = plain_training.conditioning_kl(mu, log_variance)
        total_g = total_g + (options.training.lambda_damsm * matching + options.training.kl_weight * kl) / 2
    assert losses["g"].item() == pytest.approx(total_g.item(), rel=1e-5)
    mine = _gradients(state)
    for kind, module, total in (("discriminators", discriminators, total_d), ("generator", generator, total_g)):
        names, parameters = zip(*module.named_parameters(), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(total, parameters, retain_graph=True), strict=True):
            assert_near(mine[f"{kind}.{name}"], gradient)
    for name, value in generator.named_buffers():
        torch.testing.assert_close(dict(state.generator.named_buffers())[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("start", "expected"),
    [(1.0, [1, 1, 1, 1]), (0.5, [1, 1, 1, 0.5]), (0.0, [1, 0.75, 0.5, 0.25]), (0.75, [1, 1, 1, 1])],
)
def test_learning_rates_fall_in_a_line(start, expected):
    """Of four steps, by what Adam's state says after each; a function of the step, whatever the optimiser held."""
    options = tiny_options(steps=4, lr_decay_start=start, lr_generator=1e-3, lr_discriminator=2e-3)
    step, state = tiny_step(options)
    for number, factor in enumerate(expected):
        for optimizer in state.optimizers.values():
            optimizer.param_groups[0]["lr"] = 123.0
        before = state.generator.heads[0].conv.weight.detach().clone()
        step(state, tiny_batch(options, number))
        assert state.generator_optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)
        assert state.discriminator_optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * factor)
        moved = (state.generator.heads[0].conv.weight.detach() - before).abs().max().item()
        assert moved < 4e-3 * factor


def _to_float64(step: TrainingStep, state: TrainingState) -> None:
    encoders = step.encoders.text, step.encoders.image
    for module in (state.generator, state.average.model, state.discriminators, *encoders):
        module.double()
