"""The metrics of a run: R-precision and attribute accuracy of generators, and of real pictures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kvmgan.code_version import code_version
from kvmgan.config import EvaluationOptions, ModelOptions
from kvmgan.data.batches import evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_scales
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.metrics.attribute_accuracy import attribute_accuracy, attribute_targets, named_attributes
from kvmgan.metrics.candidates import draw_mismatched
from kvmgan.metrics.evaluation_pairs import draw_pairs
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.r_precision import r_precision
from kvmgan.metrics.seen import Seen, see
from kvmgan.models.generator import Generator
from kvmgan.pretraining.encoders import Encoders, weights_digest
from kvmgan.random_streams import normal_noise
from kvmgan.training.builders import build_generator


class Evaluator:
    """Scores generators by name, and real pictures as ``real``, on captions, candidates and noise drawn once.

    What is seen in the real pictures is kept: judgements on the way of a training cost their generator alone.
    R-precision is left out, with a line on standard output, where all captions are of one class.
    """

    def __init__(
        self,
        encoders: Encoders,
        dataset: TextImageDataset,
        truth: AttributeTruth | None,
        judging: EvaluationOptions,
        device: torch.device,
    ):
        self.encoders, self.truth, self.judging, self.device = encoders, truth, judging, device
        self.dataset = dataset.limited(judging.max_words)
        self.pairs = draw_pairs(self.dataset, judging.images, judging.seed)
        self.mismatched = draw_mismatched(self.pairs.class_ids, judging.candidates - 1, judging.seed)

    def score_average(self, average: Generator, model: ModelOptions, seed: int) -> list[dict[str, Any]]:
        """Score a run's averaged generator as ``ema``; with ``evaluation.untrained`` the one it began as beside it.

        Args:
            model: settings of the generator.
            seed: seed of the random weights of the ``untrained`` one.

        Returns:
            What :meth:`score` does.
        """
        generators = {"ema": average}
        if self.judging.untrained:
            generators["untrained"] = build_generator(model, self.encoders.shape.word_dim, seed).to(self.device)
        return self.score(generators)

    def score(self, generators: Mapping[str, Generator]) -> list[dict[str, Any]]:
        """Score generators and real pictures.

        Returns:
            One row a metric and subject: ``metric``, ``subject``, ``value`` [percent], more figures, ``protocol``.
        """
        if self.mismatched.shape[1] == 0:
            count = len(self.pairs)
            print(f"note: R-precision is left out: all {count} captions are of one class, there is no wrong one")
            if self.truth is None or self.encoders.classifier is None:
                # Nothing is left to judge pictures by: none is made.
                return []
        encoders = self.encoders
        seen = {
            name: see(self._pictures(generator.eval()), encoders.image, encoders.classifier)
            for name, generator in generators.items()
        }
        seen["real"] = self._seen_real
        return self._r_precision_rows(seen) + self._attribute_rows(seen)

    @torch.no_grad()
    def _pictures(self, generator: Generator) -> Iterator[Tensor]:
        """Last pictures of a generator for every pair, in batches (b, 3, s, s)."""
        pairs, dims = self.pairs, (generator.noise_dim, generator.condition_dim)
        noise = normal_noise((len(pairs), sum(dims)), self.judging.seed, "evaluation noise").to(self.device)
        batches = (tensor.split(self.judging.batch_size) for tensor in (pairs.tokens, pairs.lengths, noise))
        for tokens, lengths, drawn in zip(*batches, strict=True):
            words, sentence, mask = self.encoders.encode(tokens, lengths)
            own, condition = drawn.split(dims, dim=1)
            yield generator(own, sentence, words, mask, condition_noise=condition).images[-1]

    @cached_property
    def _seen_real(self) -> Seen:
        """What is seen in every pair's own picture, at the largest size."""
        batches = evaluation_batches(self.dataset, self.judging.batch_size)
        pictures = (to_scales(batch.pixels.to(self.device), self.dataset.sizes[-1:])[0] for batch in batches)
        return see(pictures, self.encoders.image, self.encoders.classifier)[torch.from_numpy(self.pairs.records)]

    def _r_precision_rows(self, seen: Mapping[str, Seen]) -> list[dict[str, Any]]:
        encoders, pairs, judging = self.encoders, self.pairs, self.judging
        if self.mismatched.shape[1] == 0:
            return []
        batches = zip(pairs.tokens.split(judging.batch_size), pairs.lengths.split(judging.batch_size), strict=True)
        sentences = torch.cat([encoders.encode(tokens, lengths)[1].cpu() for tokens, lengths in batches])
        protocol = _protocol(judging) | {
            "name": "damsm",
            "candidates": 1 + self.mismatched.shape[1],
            "folds": judging.folds,
            "extractor": type(encoders.image).__name__,
            "extractor_weights": weights_digest(encoders.image),
            "text_encoder_weights": weights_digest(encoders.text),
        }
        rows = []
        for subject, pictures in seen.items():
            mean, deviation = r_precision(pictures.features, sentences, self.mismatched, judging.folds)
            rows.append(metric_row("r_precision", subject, mean, {"std": round(deviation, 3)}, protocol))
        return rows

    def _attribute_rows(self, seen: Mapping[str, Seen]) -> list[dict[str, Any]]:
        classifier, pairs, truth = self.encoders.classifier, self.pairs, self.truth
        if truth is None or classifier is None:
            return []
        records = [self.dataset.records[record] for record in pairs.records]
        wanted, named = attribute_targets(records, truth), named_attributes(records, pairs.captions, truth)
        protocol = _protocol(self.judging) | {
            "extractor": type(classifier).__name__,
            "extractor_weights": weights_digest(classifier),
        }
        rows = []
        for subject, pictures in seen.items():
            score = attribute_accuracy(pictures.attributes, wanted, named)
            by_attribute = {name: round(value, 2) for name, value in score.by_attribute.items()}
            extra = {"named": score.named, "by_attribute": by_attribute}
            rows.append(metric_row("attribute_accuracy", subject, score.accuracy, extra, protocol))
        return rows


def _protocol(judging: EvaluationOptions) -> dict[str, Any]:
    """What all metrics have in common; ``condition``: drawn around its mean, as in training."""
    return {
        "split": "test",
        "images": judging.images,
        "max_words": judging.max_words,
        "condition": "drawn",
        "seed": judging.seed,
        "code_version": code_version(),
    }
