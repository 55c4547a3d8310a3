"""Captions to pictures: what they depend on, and what they don't."""

from __future__ import annotations

import copy
import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import kvmgan
from kvmgan.errors import UserError
from kvmgan.models import noise_choice
from kvmgan.pipeline.generated_image import GeneratedImage
from kvmgan.pipeline.pipeline import Pipeline
from kvmgan.random_streams import normal_noise

pytestmark = pytest.mark.usefixtures("one_thread")
RED, BLUE = "a red bird", "a blue bird with short wings"


def levels(made: GeneratedImage) -> np.ndarray:
    return np.asarray(made.picture).astype(int)


def test_the_package_names_it():
    assert kvmgan.Pipeline is Pipeline
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        kvmgan.Pipelin  # noqa: B018


def test_pictures_stages_and_attention_come_in_the_order_of_captions(pipeline):
    made = pipeline([RED, BLUE], count=3)
    assert [one.caption for one in made] == [RED] * 3 + [BLUE] * 3
    assert made[0].words == ("a", "red", "bird")
    for one in made:
        assert [stage.size for stage in one.stages] == [(16, 16), (32, 32)]
        assert one.picture is one.stages[-1] and one.picture.mode == "RGB"
        assert [maps.shape for maps in one.attention] == [(len(one.words), 16, 16)]
        assert np.allclose(one.attention[0].sum(axis=0), 1, atol=1e-5)
    assert len({one.picture.tobytes() for one in made}) == 6


def test_the_generator_is_given_the_caption_and_the_seeds_noise(pipeline):
    """Picture n of every caption has the noise of (seed, n); the picture is the generator's in 8 bits."""
    made = pipeline(RED, seed=12345, count=2)[1]
    tokens = torch.tensor([pipeline.vocabulary.encode(RED)])
    words, sentence = pipeline.text_encoder(tokens, torch.tensor([3]))
    noise, condition = normal_noise((1, 8), 12345, "sample", 1).split((5, 3), dim=1)
    with torch.no_grad():
        image = pipeline.generator(noise, sentence, words, condition_noise=condition).images[-1][0]
    expected = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(levels(made) - expected).max() <= 1


def test_weights_that_are_written_to_are_drawn_with(pipeline):
    """What is made of them beforehand is made anew, wherever they are written to."""
    before = pipeline(RED)[0].picture.tobytes()
    bias = pipeline.generator.initial.norm.bias
    kept = bias.clone()
    with torch.no_grad():
        bias.add_(1)
    changed = pipeline(RED)[0].picture.tobytes()
    pipeline.generator.load_state_dict(pipeline.generator.state_dict() | {"initial.norm.bias": kept})
    assert changed != before and pipeline(RED)[0].picture.tobytes() == before


def test_in_inference_mode(pipeline, tmp_path):
    """Read and asked there, as outside of it."""
    folder = pipeline.save_pretrained(tmp_path / "model")
    with torch.inference_mode():
        inside = kvmgan.Pipeline.from_pretrained(folder)
        made = inside(RED, seed=3)[0]
    for found in (made, inside(RED, seed=3)[0]):
        assert found.picture.tobytes() == pipeline(RED, seed=3)[0].picture.tobytes()


def test_a_batch_changes_nothing_but_rounding(pipeline):
    alone, together = (pipeline([RED, BLUE], count=3, seed=3, batch_size=size) for size in (1, 4))
    assert max(np.abs(levels(a) - levels(b)).max() for a, b in zip(alone, together, strict=True)) <= 1
    # In batches of one nothing depends on what stands beside it, to the last bit.
    assert pipeline(BLUE, seed=3, batch_size=1)[0].picture.tobytes() == alone[3].picture.tobytes()


def test_truncation_takes_the_noise_away(pipeline):
    """At 0 no seed matters; the less of it, the nearer the pictures of several seeds."""

    def scatter(truncation: float) -> float:
        return np.std([levels(one) for one in pipeline(RED, count=6, truncation=truncation)], axis=0).mean()

    assert scatter(0.0) == 0
    assert 0 < scatter(0.3) < scatter(1.0)
    assert (
        pipeline(RED, truncation=0.0, seed=1)[0].picture.tobytes() == pipeline(RED, truncation=0.0)[0].picture.tobytes()
    )


def steadiest_of(pipeline: Pipeline, caption: str, seed: int, number: int, tries: int) -> int:
    """Which of picture ``number``'s noises changes the first image least, by small steps one at a time in float64."""
    fine = copy.deepcopy(pipeline.generator).double()
    tokens = pipeline.vocabulary.encode(caption)
    sentence = pipeline.text_encoder(torch.tensor([tokens]), torch.tensor([len(tokens)]))[1].double()
    noises = normal_noise((tries, 8), seed, "sample", number).double()
    directions = noise_choice._orthonormal(5, noise_choice.DIRECTIONS)
    rates = []
    for noise in noises[:, :5]:
        before = fine.first_image(noise[None], sentence, noises[:1, 5:])
        moved = [noise[None] + noise_choice.STEP * torch.from_numpy(direction) for direction in directions]
        rates.append(sum(((fine.first_image(z, sentence, noises[:1, 5:]) - before) ** 2).sum() for z in moved).item())
    return int(np.argmin(rates))


@torch.no_grad()
def test_of_several_noises_the_steadiest_is_drawn_from(pipeline):
    """With the condition of the first; which one depends on the caption, how many there are on call or model."""
    chosen = []
    for caption, number in itertools.product((RED, BLUE), range(4)):
        place = steadiest_of(pipeline, caption, seed=6, number=number, tries=5)
        made = pipeline(caption, seed=6, count=4, tries=5, batch_size=1)[number]
        drawn = normal_noise((5, 8), 6, "sample", number)
        tokens = pipeline.vocabulary.encode(caption)
        words, sentence = pipeline.text_encoder(torch.tensor([tokens]), torch.tensor([len(tokens)]))
        noise, condition = drawn[place, None, :5], drawn[:1, 5:]
        image = pipeline.generator(noise, sentence, words, condition_noise=condition).images[-1][0]
        expected = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
        assert np.abs(levels(made) - expected).max() <= 1
        chosen.append(place)
    assert len(set(chosen)) > 2
    own = Pipeline(replace(pipeline.settings, tries=5), pipeline.vocabulary, pipeline.generator, pipeline.text_encoder)
    for tries in (5, 1):
        assert levels(own(RED, tries=tries)[0]).tolist() == levels(pipeline(RED, tries=tries)[0]).tolist()
    assert levels(own(RED)[0]).tolist() == levels(pipeline(RED, tries=5)[0]).tolist()
    assert levels(pipeline(RED)[0]).tolist() == levels(pipeline(RED, tries=1)[0]).tolist()
    # A way from one caption to the other has one noise, the first.
    for seed in range(4):
        way = own.interpolate(RED, BLUE, seed=seed, batch_size=1)
        ends = [pipeline(caption, seed=seed, batch_size=1)[0] for caption in (RED, BLUE)]
        assert [levels(way[place]).tolist() for place in (0, -1)] == [levels(end).tolist() for end in ends]


def test_noises_are_compared_in_float32_by_networks_of_16_bits(pipeline):
    """Pictures in bfloat16 are those of the same noises but for its rounding; of other noises they would be others.

    Compared in bfloat16, a third of the noises would be others.
    """
    fine = [levels(one) for one in pipeline([RED, BLUE], count=12, tries=12)]
    coarse = [levels(one) for one in pipeline.to(dtype=torch.bfloat16)([RED, BLUE], count=12, tries=12)]
    far = np.mean([np.abs(a - b).mean() for a, b in itertools.combinations(fine[:12], 2)])
    near = [np.abs(a - b).mean() for a, b in zip(fine, coarse, strict=True)]
    assert far > 20 and sum(distance < 4 for distance in near) >= 22


def test_attention_of_a_word_sums_its_places(pipeline):
    made = pipeline("a red bird with a red beak")[0]
    assert made.words.count("red") == 2
    assert np.array_equal(made.attention_of("red"), made.attention[0][1] + made.attention[0][5])
    assert np.array_equal(made.attention_of("bird", 0), made.attention[0][2])
    with pytest.raises(ValueError, match="word is 'zeppelin', expected one of a, red, bird, with, beak"):
        made.attention_of("zeppelin")
    with pytest.raises(ValueError, match="stage is 1"):
        made.attention_of("red", 1)
    assert pipeline(RED, attention=False)[0].attention == ()


def test_what_is_not_read_is_said(pipeline):
    with pytest.warns(UserWarning, match="'a red zeppelin': unknown words are left out: zeppelin"):
        made = pipeline("a red zeppelin")[0]
    assert made.words == ("a", "red")
    with pytest.warns(UserWarning, match="only its first 8 words are used"):
        assert len(pipeline("a red bird " * 3)[0].words) == 8
    caption = pipeline.read("a red zeppelin")
    assert caption.notes == ("'a red zeppelin': unknown words are left out: zeppelin",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Whoever has read it has seen the notes.
        assert pipeline(caption)[0].picture.tobytes() == made.picture.tobytes()


@pytest.mark.parametrize(
    ("captions", "options", "message"),
    [
        ([], {}, "captions is empty"),
        (RED, {"seed": -1}, "seed is -1, expected 0 to"),
        (RED, {"seed": 2**63}, f"seed is {2**63}"),
        (RED, {"count": 0}, "count is 0, expected 1 or more"),
        (RED, {"batch_size": 0}, "batch_size is 0"),
        (RED, {"tries": 0}, "tries is 0, expected 1 or more"),
        (RED, {"truncation": 1.1}, "truncation is 1.1, expected 0 to 1"),
        (RED, {"truncation": float("nan")}, "truncation is nan"),
    ],
)
def test_numbers_out_of_their_range(pipeline, captions, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(captions, **options)


def test_captions_without_a_known_word(pipeline):
    with pytest.raises(UserError, match="holds only unknown words: zeppelin"):
        pipeline(["a red bird", "zeppelin"])


def test_interpolation_between_captions_begins_and_ends_with_them(pipeline):
    """Exactly at both ends; on the way each picture is nearer to the one before than both ends are to each other."""
    first, last = (pipeline(caption, seed=4, batch_size=1)[0] for caption in (RED, BLUE))
    way = pipeline.interpolate(RED, BLUE, steps=9, seed=4, batch_size=1)
    assert len(way) == 9
    assert way[0].picture.tobytes() == first.picture.tobytes() and way[-1].picture.tobytes() == last.picture.tobytes()
    assert (way[0].caption, way[-1].caption, way[4].caption) == (RED, BLUE, f"{RED} > {BLUE} (0.50)")
    whole = np.abs(levels(first) - levels(last)).mean()
    steps = [np.abs(levels(a) - levels(b)).mean() for a, b in itertools.pairwise(way[1:-1])]
    assert whole > 0 and 0 < max(steps) < 0.6 * whole
    # Three words on the way to six: each stands twice.
    assert way[1].words == ("a", "a>blue", "red>bird", "red>with", "bird>short", "bird>wings")


def test_interpolation_between_noises(pipeline):
    way = pipeline.interpolate(RED, seed=1, last_seed=2, steps=3, batch_size=1)
    ends = [pipeline(RED, seed=seed, batch_size=1)[0] for seed in (1, 2)]
    assert [way[place].picture.tobytes() for place in (0, -1)] == [end.picture.tobytes() for end in ends]
    assert {one.caption for one in way} == {RED}
    assert len({one.picture.tobytes() for one in way}) == 3


def test_interpolation_of_nothing(pipeline):
    with pytest.raises(ValueError, match="last and last_seed are None"):
        pipeline.interpolate(RED)
    with pytest.raises(ValueError, match="steps is 1, expected 2 or more"):
        pipeline.interpolate(RED, BLUE, steps=1)
    with pytest.raises(ValueError, match="seed is -1"):
        pipeline.interpolate(RED, last_seed=-1)


def test_moving_and_precision(pipeline):
    """float64 is the reference; 16 bits stay near it; torch's own generator is left alone by all of it."""
    before = torch.get_rng_state()
    assert (pipeline.device, pipeline.dtype) == (torch.device("cpu"), torch.float32)
    fine = levels(pipeline.to(dtype=torch.float64)(RED)[0])
    assert pipeline.to("cpu") is pipeline and pipeline.dtype == torch.float64
    assert np.abs(levels(pipeline.to("cpu", torch.float32)(RED)[0]) - fine).max() <= 1
    assert np.abs(levels(pipeline.to(dtype=torch.bfloat16)(RED)[0]) - fine).mean() < 4
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match=r"dtype is torch.int8, expected one of torch.float32"):
        pipeline.to(dtype=torch.int8)
    with pytest.raises(UserError, match="device is 'tpu': choose auto, cpu"):
        pipeline.to("tpu")
    with pytest.raises(UserError, match="device is 'cuda:99' but torch sees"):
        pipeline.to("cuda:99")
