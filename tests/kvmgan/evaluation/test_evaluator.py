"""Evaluation: what the generator is given, what stands in the rows, and what is left out."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kvmgan.config import EvaluationOptions, ModelOptions
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_bytes
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.data.records import Record
from kvmgan.data.vocabulary import Vocabulary
from kvmgan.errors import UserError
from kvmgan.evaluation.evaluator import Evaluator
from kvmgan.evaluation.panel import Panel
from kvmgan.evaluation.protocol import common_protocol
from kvmgan.evaluation.scores import distributions
from kvmgan.metrics.feature_metrics import Estimate
from kvmgan.metrics.seen import Watcher
from kvmgan.models.generator import Generator, GeneratorOutput
from kvmgan.pretraining.encoders import Encoders, EncoderShape, build_image_encoder, build_text_encoder
from kvmgan.random_streams import normal_noise
from kvmgan.training.builders import build_generator

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = (0, 1, 12345, 2**32, 2**63 - 1)
WORDS = ["a", "red", "green", "bird", "with", "wings", "of", "gold"]
SHAPE = EncoderShape("small", width=4, embedding_dim=8, word_dim=8)
MODEL = ModelOptions(stages=2, base_size=16, width=4, noise_dim=5, condition_dim=3, residual_blocks=0)
JUDGING = EvaluationOptions(images=18, folds=3, candidates=100, max_words=6, batch_size=4, seed=7)
# Seven words: more than evaluation's limit, which is more than training's.
CAPTIONS = ("quux", "a green bird with wings of gold")
TRUTH = AttributeTruth(
    values={"colour": ("red", "green")},
    images={str(place): {"colour": place % 2} for place in range(6)},
    captions={str(place): [(), ("colour",)] for place in range(6)},
)


class RecordingGenerator(Generator):
    """Keeps what it is given, batch by batch."""

    def __init__(self) -> None:
        super().__init__(
            stages=2, base_size=16, width=4, noise_dim=5, condition_dim=3, sentence_dim=8, word_dim=8, residual_blocks=0
        )
        self.given: list[dict[str, Tensor]] = []

    def forward(self, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, **options) -> GeneratorOutput:
        self.given.append({"noise": noise, "mask": mask, **options})
        return super().forward(noise, sentence, words, mask, **options)

    def all_given(self, name: str) -> Tensor:
        """One input over all pictures."""
        return torch.cat([given[name] for given in self.given])


class ColourClassifier(nn.Module):
    """Tells green pictures (1) from red ones (0)."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"colour": images.mean(dim=(2, 3))[:, :2]}


@pytest.fixture
def dataset(tmp_path: Path) -> TextImageDataset:
    """Six records, red and green in turn, each a class of its own; training's word limit is 2."""
    for colour in ("red", "green"):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{colour}.png")
    records = [
        Record(str(place), tmp_path / ("red.png", "green.png")[place % 2], place, CAPTIONS) for place in range(6)
    ]
    return TextImageDataset(records, Vocabulary(WORDS), sizes=(16, 32), max_words=2)


@pytest.fixture
def encoders() -> Encoders:
    torch.manual_seed(0)
    text, image = build_text_encoder(SHAPE, len(WORDS) + 1).eval(), build_image_encoder(SHAPE).eval()
    return Encoders(Vocabulary(WORDS), SHAPE, text, image, ColourClassifier())


@pytest.fixture
def judged(dataset: TextImageDataset, encoders: Encoders) -> Callable[[EvaluationOptions], RecordingGenerator]:
    """Evaluates a generator and returns it, with all that it was given."""

    def judge(judging: EvaluationOptions) -> RecordingGenerator:
        generator = RecordingGenerator()
        Evaluator(encoders, dataset, None, judging, CPU).score({"some": generator})
        return generator

    return judge


@pytest.mark.parametrize("batch_size", [1, 4, 18])
def test_noise_and_condition_are_drawn_whatever_the_batch(judged, batch_size):
    """One array of the seed, split in two; picture i's part of it doesn't depend on the batch that it comes in."""
    generator = judged(replace(JUDGING, batch_size=batch_size))
    expected = normal_noise((18, 8), 7, "evaluation noise")
    assert not generator.training
    assert torch.equal(generator.all_given("noise"), expected[:, :5])
    assert torch.equal(generator.all_given("condition_noise"), expected[:, 5:])


@pytest.mark.parametrize("batch_size", [18, 7])
def test_of_several_noises_the_steadiest_is_judged(judged, batch_size):
    """The first is the one there is without tries, whose condition stays; the protocol says how many there were."""
    tries = EvaluationOptions(images=18, folds=3, candidates=100, max_words=6, batch_size=batch_size, seed=7, tries=3)
    generator = judged(tries)
    first = normal_noise((18, 8), 7, "evaluation noise")
    further = normal_noise((18, 2, 5), 7, "evaluation noise, further tries")
    assert torch.equal(generator.all_given("condition_noise"), first[:, 5:])
    noises = torch.cat((first[:, None, :5], further), dim=1)
    found = (noises == generator.all_given("noise")[:, None]).all(dim=2)
    assert found.sum(dim=1).tolist() == [1] * 18
    assert found.any(dim=0).all()
    assert common_protocol(tries, truncates=False)["tries"] == 3
    assert "tries" not in common_protocol(JUDGING, truncates=False)


def test_all_seeds_give_noise_of_their_own(judged):
    noise = [judged(replace(JUDGING, seed=seed)).all_given("noise") for seed in SEEDS]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(noise, 2))


def test_numbers_repeat_and_nothing_else_is_drawn(dataset, encoders):
    """The framework's random state is as it was, and a second evaluation gives the same rows."""
    generator = RecordingGenerator()
    before = torch.get_rng_state()
    first, second = (Evaluator(encoders, dataset, TRUTH, JUDGING, CPU).score({"some": generator}) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.get_rng_state())


def test_captions_keep_the_words_of_evaluation(judged):
    """evaluation.max_words counts, more or less than training's, and captions of unknown words are never drawn."""
    for max_words in (1, 6, 9):
        mask = judged(replace(JUDGING, max_words=max_words)).all_given("mask")
        assert mask.shape == (18, max_words)
        assert (mask.sum(dim=1) == min(max_words, 7)).all()


def test_rows_name_metric_subject_and_protocol(dataset, encoders):
    """The protocol holds what was done: of 100 candidates 16 are there, since three of 18 captions are of one class."""
    rows = Evaluator(encoders, dataset, TRUTH, JUDGING, CPU).score({"some": RecordingGenerator()})
    assert [(row["metric"], row["subject"]) for row in rows] == [
        (metric, subject) for metric in ("r_precision", "attribute_accuracy") for subject in ("some", "real")
    ]
    shared = {"split": "test", "images": 18, "max_words": 6, "condition": "drawn", "seed": 7}
    for row in rows:
        assert 0 <= row["value"] <= 100
        assert shared.items() <= row["protocol"].items()
        assert {"code_version", "extractor", "extractor_weights"} <= row["protocol"].keys()
    protocol = rows[0]["protocol"]
    assert (protocol["name"], protocol["candidates"], protocol["folds"]) == ("damsm", 16, 3)
    assert rows[0].keys() == {"metric", "subject", "value", "std", "protocol"}
    assert (rows[3]["named"], rows[3]["by_attribute"]) == (18, {"colour": 100.0})


def test_real_pictures_are_looked_at_once(dataset, encoders):
    """However often a training is judged on the way; the second score has the rows of the first."""
    looked = []

    class CountingEncoder(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            looked.append(len(images))
            return encoders.image(images)

    evaluator = Evaluator(replace(encoders, image=CountingEncoder()), dataset, TRUTH, JUDGING, CPU)
    first, second = (evaluator.score({"some": RecordingGenerator()}) for _ in range(2))
    assert sum(looked) == 18 + 6 + 18
    assert [row for row in first if row["subject"] == "real"] == [row for row in second if row["subject"] == "real"]


def test_real_pictures_belong_to_their_captions(dataset, encoders):
    """A classifier that is never wrong scores 100: each caption is judged by its own record's picture."""
    rows = Evaluator(encoders, dataset, TRUTH, JUDGING, CPU).score({})
    assert [row["value"] for row in rows if row["metric"] == "attribute_accuracy"] == [100.0]


def test_generated_pictures_belong_to_their_captions(tmp_path, encoders):
    """A generator that paints its sentence, and an encoder that reads it, score 100 with captions that all differ."""

    class Painter(RecordingGenerator):
        def forward(self, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, **options) -> GeneratorOutput:
            painted = sentence.repeat(1, 384).reshape(-1, 3, 32, 32)
            return GeneratorOutput([painted], [], sentence, sentence)

    class Reader(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images.flatten(1)[:, :8]

    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    captions = [f"{first} {second}" for first in WORDS for second in WORDS[:4]]
    records = [Record(str(n), tmp_path / "black.png", n, (caption,)) for n, caption in enumerate(captions)]
    dataset = TextImageDataset(records, Vocabulary(WORDS), sizes=(16, 32), max_words=2)
    evaluator = Evaluator(replace(encoders, image=Reader()), dataset, None, replace(JUDGING, images=32), CPU)
    values = {row["subject"]: row["value"] for row in evaluator.score({"some": Painter()})}
    # Pictures that are all the same are nearest to one caption of 32.
    assert values["some"] == 100.0 and values["real"] < 10


def test_one_class_leaves_r_precision_out_and_says_so(dataset, encoders, capsys):
    dataset.records = [replace(record, class_id=3) for record in dataset.records]
    rows = Evaluator(encoders, dataset, TRUTH, JUDGING, CPU).score({"some": RecordingGenerator()})
    assert {row["metric"] for row in rows} == {"attribute_accuracy"}
    output = capsys.readouterr().out
    assert output.startswith("note: R-precision is left out: all 18 captions are of one class")
    assert output.count("\n") == 1


def test_no_picture_is_made_where_nothing_can_be_judged(dataset, encoders):
    """One class, and no attributes or no classifier of them: there are no rows, and no time is spent on them."""
    dataset.records = [replace(record, class_id=3) for record in dataset.records]
    generator = RecordingGenerator()
    for judges, truth in ((encoders, None), (replace(encoders, classifier=None), TRUTH)):
        assert Evaluator(judges, dataset, truth, JUDGING, CPU).score({"some": generator}) == []
    assert generator.given == []


def test_the_untrained_generator_is_judged_only_if_asked_for(dataset, encoders):
    """It is the one that training starts from: as an average it would get the same figures."""
    average = build_generator(MODEL, SHAPE.word_dim, 3)
    rows = Evaluator(encoders, dataset, TRUTH, JUDGING, CPU).score_average(average, MODEL, 3)
    assert [row["subject"] for row in rows] == ["ema", "real"] * 2
    asked = replace(JUDGING, untrained=True)
    more = Evaluator(encoders, dataset, TRUTH, asked, CPU).score_average(average, MODEL, 3)
    assert [row["subject"] for row in more] == ["ema", "untrained", "real"] * 2
    for start in (0, 3):
        assert {**more[start], "subject": ""} == {**more[start + 1], "subject": ""}
    assert [row for row in more if row["subject"] != "untrained"] == rows


@pytest.fixture
def levels() -> Watcher:
    """Keeps the pictures themselves."""
    return Watcher("levels", "0", lambda pictures: {"features": pictures.flatten(1).float()})


class Constant(RecordingGenerator):
    """One picture, whatever the caption and the noise."""

    def forward(self, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, **options) -> GeneratorOutput:
        made = super().forward(noise, sentence, words, mask, **options)
        return made._replace(images=[image[:1].expand_as(image) for image in made.images])


class Reading(RecordingGenerator):
    """Also keeps the sentences that it is given and the last pictures that it made."""

    def forward(self, noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, **options) -> GeneratorOutput:
        made = super().forward(noise, sentence, words, mask, **options)
        self.given[-1] |= {"sentence": sentence, "made": made.images[-1]}
        return made


@pytest.mark.parametrize("protocol", ["efficientnet-lite0", "legacy-dmgan"])
def test_pictures_are_judged_in_the_levels_that_a_file_keeps(dataset, encoders, levels, monkeypatch, protocol):
    """Rounded, or truncated as the released code does; real pictures are the files' own levels."""
    pytest.importorskip("torch_fidelity")
    judged = {}

    def remember(generated: Tensor, real: Tensor) -> float:
        judged.update(generated=generated, real=real)
        return 0.0

    monkeypatch.setattr(distributions, "frechet_distance", remember)
    metric = "fid" if protocol == "legacy-dmgan" else "fd"
    panel = Panel((metric,), protocol, levels)
    generator = Reading()
    rows = Evaluator(encoders, dataset, None, JUDGING, CPU, panel).score({"some": generator})
    exact = (generator.all_given("made").flatten(1) + 1) * 127.5
    expected = exact.floor() if protocol == "legacy-dmgan" else exact.round()
    assert torch.equal(judged["generated"], expected) and not torch.equal(exact.floor(), exact.round())
    # Six test pictures, each once, though 18 captions were drawn.
    assert judged["real"].shape[0] == 6
    assert sorted(judged["real"].amax(dim=1).unique().tolist()) == [128, 255]
    assert rows[0]["protocol"]["pixels"] == ("8 bits, truncated" if protocol == "legacy-dmgan" else "8 bits, rounded")
    assert (rows[0]["protocol"]["images"], rows[0]["protocol"]["real_images"]) == (18, 6)


@pytest.mark.parametrize(
    ("metric", "function", "outcome"),
    [
        ("fd", "frechet_distance", 0.0),
        ("kd", "kernel_distance", Estimate(0.0, 0.0)),
        ("prc", "precision_recall", (0.0, 0.0)),
    ],
)
def test_every_distance_is_of_generated_and_real_pictures(
    dataset, encoders, levels, monkeypatch, metric, function, outcome
):
    """In this order, which decides what is precision and what is recall."""
    pytest.importorskip("torch_fidelity")
    given = []
    monkeypatch.setattr(distributions, function, lambda *features: given.append(features) or outcome)
    panel = Panel((metric,), "efficientnet-lite0", levels)
    Evaluator(encoders, dataset, None, JUDGING, CPU, panel).score({"some": RecordingGenerator()})
    ((generated, real),) = given
    assert (len(generated), len(real)) == (18, 6)
    assert sorted(real.amax(dim=1).unique().tolist()) == [128, 255]


def test_diversity_draws_the_first_captions_again_and_again(dataset, encoders, levels):
    """Each caption's draws stand together and have noise of their own, which isn't that of the other metrics."""
    generator = Reading()
    said = [
        replace(record, captions=(f"a {' '.join(WORDS[1 + place :])}",)) for place, record in enumerate(dataset.records)
    ]
    dataset = TextImageDataset(said, dataset.vocabulary, sizes=dataset.sizes, max_words=2)
    panel = Panel(("diversity",), "efficientnet-lite0", levels, captions=3, draws=4)
    rows = Evaluator(encoders, dataset, None, JUDGING, CPU, panel).score({"some": generator})
    sentences, noise = generator.all_given("sentence"), generator.all_given("noise")
    assert len(sentences) == len(noise) == 12
    assert (torch.pdist(sentences[::4]) > 1e-4).all()
    torch.testing.assert_close(sentences, sentences[::4].repeat_interleave(4, dim=0))
    assert torch.equal(noise, normal_noise((12, 8), 7, "diversity noise")[:, :5])
    pictures = to_bytes(generator.all_given("made")).flatten(1).double().unflatten(0, (3, 4))
    cosines = torch.nn.functional.cosine_similarity(pictures[:, :, None], pictures[:, None], dim=-1)
    expected = torch.stack([1 - one[~torch.eye(4, dtype=torch.bool)].mean() for one in cosines])
    assert [row["subject"] for row in rows] == ["some"]
    assert rows[0]["value"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert rows[0]["std"] == pytest.approx(expected.std(correction=0).item(), rel=1e-4)


def test_a_generator_that_collapsed_has_no_diversity(dataset, encoders, levels):
    dataset.records = [replace(record, class_id=place // 3) for place, record in enumerate(dataset.records)]
    panel = Panel(("diversity",), "efficientnet-lite0", levels, captions=3, draws=4)
    values = {
        row["subject"]: row["value"]
        for row in Evaluator(encoders, dataset, None, JUDGING, CPU, panel).score({"dead": Constant()})
    }
    assert abs(values["dead"]) < 1e-9
    # Red and green pictures of one class, beside it.
    assert values["real"] == pytest.approx(2 / 3, abs=1e-3)


def test_no_more_captions_than_there_are_are_drawn(dataset, encoders, levels):
    panel = Panel(("diversity",), "efficientnet-lite0", levels, captions=100, draws=2)
    judging = replace(JUDGING, images=5, folds=1)
    rows = Evaluator(encoders, dataset, None, judging, CPU, panel).score({"some": RecordingGenerator()})
    assert rows[0]["protocol"]["captions"] == 5 and rows[0]["protocol"]["images"] == 10


def test_what_there_are_too_few_pictures_for_is_left_out_unless_it_was_asked_for(dataset, encoders, levels, capsys):
    """Two test pictures: a distance can be computed, precision and recall can't."""
    pytest.importorskip("torch_fidelity")
    few = copy.copy(dataset)
    few.records = dataset.records[:2]
    panel = Panel(("fd", "prc"), "efficientnet-lite0", levels)
    judging = replace(JUDGING, images=2, folds=1)
    with pytest.raises(UserError, match=r"--metrics prc needs 4 pictures or more, generated and real: there are 2 "):
        Evaluator(encoders, few, None, judging, CPU, panel)
    evaluator = Evaluator(encoders, few, None, judging, CPU, replace(panel, lenient=True))
    assert "note: prc is left out: it needs 4 pictures or more" in capsys.readouterr().out
    assert [row["metric"] for row in evaluator.score({"some": RecordingGenerator()})] == ["fd"]


def test_every_extractor_looks_once_at_each_picture(dataset, encoders):
    """Distances, precision and diversity share one look at the real pictures, of one network."""
    pytest.importorskip("torch_fidelity")
    looked = []

    def look(pictures: Tensor) -> dict[str, Tensor]:
        looked.append(len(pictures))
        return {"features": pictures.flatten(1)[:, :7].float() + torch.rand(len(pictures), 7)}

    panel = Panel(
        ("fd", "kd", "prc", "diversity"), "efficientnet-lite0", Watcher("one", "0", look), captions=3, draws=4
    )
    rows = Evaluator(encoders, dataset, None, JUDGING, CPU, panel).score({"some": RecordingGenerator()})
    assert sum(looked) == 18 + 6 + 12
    assert [row["metric"] for row in rows if row["subject"] == "some"] == [
        *("fd", "kd", "precision", "recall", "diversity")
    ]
