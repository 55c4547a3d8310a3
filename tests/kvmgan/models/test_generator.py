"""The generator and its stages."""

import pytest
import torch

from kvmgan.errors import UserError
from kvmgan.models.generator import Generator

REFINEMENTS = ["memory", "attention", "none"]


def tiny(refinement="memory", **options) -> Generator:
    settings = {"stages": 3, "base_size": 16, "width": 4, "noise_dim": 6, "condition_dim": 5, "residual_blocks": 1}
    return Generator(**{**settings, "sentence_dim": 12, "word_dim": 12, "refinement": refinement, **options})


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_shapes_and_range(captions, refinement):
    output = tiny(refinement)(torch.randn(4, 6), *captions)
    assert [tuple(image.shape) for image in output.images] == [(4, 3, 16, 16), (4, 3, 32, 32), (4, 3, 64, 64)]
    assert all(image.abs().max() <= 1 for image in output.images)
    assert output.attention == []
    assert output.mu.shape == output.log_variance.shape == (4, 5)


@pytest.mark.parametrize("refinement", ["memory", "attention"])
def test_attention_sums_to_one_over_the_words_and_is_zero_at_padding(captions, refinement):
    output = tiny(refinement)(torch.randn(4, 6), *captions, return_attention=True)
    assert [tuple(attention.shape) for attention in output.attention] == [(4, 7, 16, 16), (4, 7, 32, 32)]
    for attention in output.attention:
        torch.testing.assert_close(attention.sum(dim=1), torch.ones_like(attention[:, 0]))
        assert not attention[~captions.mask].any()


def test_no_attention_where_no_word_is_looked_at(captions):
    assert tiny("none")(torch.randn(4, 6), *captions, return_attention=True).attention == []


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("base_size", [8, 32])
def test_stages_and_base_size_are_settings(captions, stages, base_size):
    output = tiny(stages=stages, base_size=base_size)(torch.randn(4, 6), *captions)
    assert [image.shape[-1] for image in output.images] == [base_size * 2**stage for stage in range(stages)]


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_gradients_reach_every_parameter_and_the_words(captions, refinement):
    generator = tiny(refinement)
    words = captions.words.requires_grad_()
    output = generator(torch.randn(4, 6), captions.sentence, words, captions.mask)
    sum((image * torch.randn_like(image)).sum() for image in output.images).backward()
    without = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    if refinement == "none":
        assert words.grad is None
    else:
        assert words.grad[captions.mask].any()
        assert not words.grad[~captions.mask].any()


@pytest.mark.parametrize("refinement", ["memory", "attention"])
@torch.no_grad()
def test_padding_words_change_nothing_and_words_do(captions, refinement):
    generator = tiny(refinement).eval()
    noise, (sentence, words, mask) = torch.randn(4, 6), captions

    def last_image(words):
        return generator(noise, sentence, words, mask, condition_noise=torch.zeros(4, 5)).images[-1]

    before = last_image(words)
    assert torch.equal(last_image(torch.where(mask[..., None], words, 100.0)), before)
    changed = last_image(torch.where(mask[..., None], -words, words)) != before
    assert changed.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("refinement", REFINEMENTS)
@torch.no_grad()
def test_images_do_not_depend_on_the_rest_of_the_batch_in_evaluation(captions, refinement):
    generator = tiny(refinement).eval()
    noise, condition_noise = torch.randn(4, 6), torch.randn(4, 5)
    together = generator(noise, *captions, condition_noise=condition_noise).images[-1]
    for i in range(4):
        alone_noise, alone_condition, *alone_captions = (t[i : i + 1] for t in (noise, condition_noise, *captions))
        alone = generator(alone_noise, *alone_captions, condition_noise=alone_condition).images[-1]
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("refinement", ["memory", "attention"])
@torch.no_grad()
def test_a_caption_without_words_gives_a_finite_image(captions, refinement):
    mask = torch.zeros_like(captions.mask)
    output = tiny(refinement)(torch.randn(4, 6), captions.sentence, captions.words, mask, return_attention=True)
    assert output.images[-1].isfinite().all()
    assert not output.attention[0].any()


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_condition_is_drawn_in_both_modes_and_can_be_given(captions, training):
    generator, noise = tiny(stages=1).train(training), torch.randn(4, 6)

    def image(**options):
        return generator(noise, *captions, **options).images[0]

    assert not torch.equal(image(), image())
    assert torch.equal(image(condition_noise=torch.ones(4, 5)), image(condition_noise=torch.ones(4, 5)))
    assert not torch.equal(image(condition_noise=torch.zeros(4, 5)), image(condition_noise=torch.ones(4, 5)))
    torch.manual_seed(7)
    drawn = image()
    torch.manual_seed(7)
    assert torch.equal(drawn, image(condition_noise=torch.randn(4, 5)))


def test_memory_options_reach_the_memory_layers():
    generator = tiny(memory_options={"memory_channels": 10})
    assert [stage.memory.key.in_features for stage in generator.refinements] == [10, 10]


def test_same_seed_same_weights():
    def weights():
        torch.manual_seed(3)
        return tiny().state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_channels_last_gives_the_same_images(captions, refinement):
    generator, noise, condition_noise = tiny(refinement).eval(), torch.randn(4, 6), torch.randn(4, 5)
    expected = generator(noise, *captions, condition_noise=condition_noise).images[-1]
    generator.to(memory_format=torch.channels_last)
    actual = generator(noise, *captions, condition_noise=condition_noise).images[-1]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_bfloat16_autocast_gives_finite_images_and_gradients(captions, refinement):
    generator = tiny(refinement)
    with torch.autocast("cpu", torch.bfloat16):
        output = generator(torch.randn(4, 6), *captions)
    sum(image.float().square().sum() for image in output.images).backward()
    assert all(parameter.grad.isfinite().all() for parameter in generator.parameters())


@pytest.mark.parametrize("refinement", REFINEMENTS)
@torch.no_grad()
def test_traces_without_a_graph_break(captions, refinement):
    generator, noise = tiny(refinement, stages=2).eval(), torch.randn(4, 6)
    compiled = torch.compile(generator, fullgraph=True, backend="eager")
    made, expected = (net(noise, *captions, condition_noise=torch.zeros(4, 5)) for net in (compiled, generator))
    assert torch.equal(made.images[-1], expected.images[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 0}, "stages is 0"),
        ({"base_size": 20}, "base_size is 20"),
        ({"base_size": 4}, "base_size is 4"),
        ({"refinement": "magic"}, "refinement is 'magic'.*memory, attention, none"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(UserError, match=message):
        tiny(**options)


def test_wrong_tensors_are_named(captions):
    generator = tiny()
    with pytest.raises(ValueError, match=r"noise is \(4, 7\), expected \(4, 6\)"):
        generator(torch.randn(4, 7), *captions)
    with pytest.raises(ValueError, match=r"mask is .*torch.float32, expected \(4, 7\) torch.bool"):
        generator(torch.randn(4, 6), captions.sentence, captions.words, captions.mask.float())
