"""Watching the memory layers of a generator."""

import itertools
import math

import pytest
import torch

from kvmgan.models.generator import Generator
from kvmgan.models.memory_watch import watch_memory

NAMES = [f"{value}_{stage}" for stage in (1, 2) for value in ("write_gate", "response_gate", "address_entropy")]
OPTIONS = [
    {"write_gate": gate, "write_gate_width": wide, "response_gate_width": responses, "activation": activation}
    for gate, wide, responses, activation in itertools.product(
        ("sigmoid", "linear"), ("scalar", "vector"), ("scalar", "vector"), ("relu", "identity")
    )
]


def tiny(refinement="memory", **options) -> Generator:
    sizes = {"stages": 3, "base_size": 8, "width": 4, "noise_dim": 6, "condition_dim": 5, "residual_blocks": 1}
    return Generator(**{**sizes, "sentence_dim": 12, "word_dim": 12, "refinement": refinement, **options}).eval()


def batch(captions, dtype=torch.float32):
    """Noise, captions and condition noise."""
    noise, condition_noise = torch.randn(4, 6, dtype=dtype), torch.randn(4, 5, dtype=dtype)
    return noise, captions.sentence.to(dtype), captions.words.to(dtype), captions.mask, condition_noise


def plain_means(layer, image, words, mask) -> list[torch.Tensor]:
    """The equations of docs/layer.md slot by slot and position by position."""

    def phi(x):
        return x.relu() if layer.activation == "relu" else x

    write_gates, response_gates, entropies = [], [], []
    for h, w, has_word in zip(image, words, mask, strict=True):
        r, slots = h.mean(dim=(1, 2)), []
        for w_t in w[has_word]:
            g = layer.gate_word.weight @ w_t + layer.gate_image.weight @ r
            g = g if layer.write_gate == "linear" else torch.sigmoid(g)
            write_gates.append(g.mean())
            slots.append(g * phi(layer.write_word(w_t)) + (1 - g) * phi(layer.write_image(r)))
        keys, values = ([phi(part(m)) for m in slots] for part in (layer.key, layer.value))
        for h_n in h.flatten(1).T:
            o = torch.zeros_like(h_n)
            if slots:
                alpha = torch.softmax(torch.stack([k @ h_n for k in keys]), dim=0)
                entropies.append(-(alpha * alpha.log()).sum())
                o = sum(a * v for a, v in zip(alpha, values, strict=True))
            response_gates.append(layer.response_gate(torch.cat((h_n, o))).sigmoid().mean())
    return [torch.stack(values).mean() for values in (write_gates, response_gates, entropies)]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
@torch.no_grad()
def test_means_are_those_of_the_equations(captions, options):
    """For every stage and option; captions without a word have no write gate and no address."""
    generator = tiny(memory_options=options).double()
    noise, sentence, words, mask, condition_noise = batch(captions, torch.float64)
    mask[2] = False
    means = watch_memory(generator, noise, sentence, words, mask, condition_noise)
    condition, _, _ = generator.conditioning(sentence, condition_noise)
    features, expected = generator.initial(condition, noise), []
    for stage in generator.refinements:
        expected += plain_means(stage.memory, features, words, mask)
        features, _ = stage(features, words, mask)
    assert list(means) == NAMES
    torch.testing.assert_close(list(means.values()), expected)


def test_entropy_of_equal_addresses_is_the_logarithm_of_their_number(captions):
    generator = tiny()
    for stage in generator.refinements:
        torch.nn.init.zeros_(stage.memory.key.weight)
        torch.nn.init.zeros_(stage.memory.key.bias)
    means = watch_memory(generator, *batch(captions))
    expected = sum(math.log(count) for count in captions.mask.sum(dim=1).tolist()) / 4
    assert means["address_entropy_1"].item() == pytest.approx(expected, rel=1e-5)


def test_nothing_changes(captions):
    """Parameters, buffers, random state, hooks, and no graph is built."""
    generator, inputs = tiny(), batch(captions)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    random_state = torch.get_rng_state()
    means = watch_memory(generator, *inputs)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert not any(module._forward_hooks for module in generator.modules())
    assert not any(mean.requires_grad for mean in means.values())


def test_hooks_are_removed_after_an_error(captions):
    generator = tiny()
    noise, sentence, words, mask, condition_noise = batch(captions)
    with pytest.raises(ValueError, match="words: got 5 channels"):
        watch_memory(generator, noise, sentence, words[..., :5], mask, condition_noise)
    assert not any(module._forward_hooks for module in generator.modules())


@pytest.mark.parametrize("part", ["", "refinements.1.upsample.norm"])
def test_training_mode_is_refused(captions, part):
    generator = tiny()
    generator.get_submodule(part).train()
    with pytest.raises(ValueError, match="generator is in training mode"):
        watch_memory(generator, *batch(captions))


@pytest.mark.parametrize("options", [{"refinement": "attention"}, {"refinement": "none"}, {"stages": 1}])
def test_without_memory_layers_there_is_nothing_to_watch(captions, options):
    assert watch_memory(tiny(**options), *batch(captions)) == {}


def test_what_stands_in_a_slot_without_a_word_does_not_matter(captions):
    generator, (noise, sentence, words, mask, condition_noise) = tiny(), batch(captions)
    expected = watch_memory(generator, noise, sentence, words, mask, condition_noise)
    padded = words.masked_fill(~mask[..., None], torch.nan)
    assert watch_memory(generator, noise, sentence, padded, mask, condition_noise) == expected


def test_under_autocast_the_means_are_taken_in_float32(captions):
    generator, inputs = tiny(), batch(captions)
    expected = watch_memory(generator, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        means = watch_memory(generator, *inputs)
    torch.testing.assert_close(means, expected, rtol=0.05, atol=0.02)
    assert not any(torch.equal(mean, mean.bfloat16().float()) for mean in means.values())


def test_a_compiled_generator_is_watched_too(captions):
    generator, inputs = tiny(stages=2), batch(captions)
    expected = watch_memory(generator, *inputs)
    compiled = torch.compile(generator, backend="eager")
    # As the watch calls it: code for this very call is there, without its hooks.
    with torch.no_grad():
        compiled(*inputs[:4], condition_noise=inputs[4])
    assert watch_memory(compiled, *inputs) == expected
