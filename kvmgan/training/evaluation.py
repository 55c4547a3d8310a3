"""The metrics of a run: R-precision and attribute accuracy of generators, and of real pictures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kvmgan.code_version import code_version
from kvmgan.config import EvaluationOptions, Options
from kvmgan.data.batches import evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_scales
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.metrics.attribute_accuracy import attribute_accuracy, attribute_targets, named_attributes
from kvmgan.metrics.candidates import draw_mismatched
from kvmgan.metrics.evaluation_pairs import EvaluationPairs, draw_pairs
from kvmgan.metrics.metric_rows import metric_row
from kvmgan.metrics.r_precision import r_precision
from kvmgan.metrics.seen import Seen, see
from kvmgan.models.generator import Generator
from kvmgan.pretraining.encoders import Encoders, weights_digest
from kvmgan.random_streams import normal_noise
from kvmgan.training.builders import build_generator


def evaluate_average(
    average: Generator,
    encoders: Encoders,
    dataset: TextImageDataset,
    truth: AttributeTruth | None,
    options: Options,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Score a run's averaged generator as ``ema``, with ``evaluation.untrained`` one of random weights beside it.

    Returns what :func:`evaluate` does.
    """
    generators = {"ema": average}
    if options.evaluation.untrained:
        untrained = build_generator(options.model, encoders.shape.word_dim, options.training.seed)
        generators["untrained"] = untrained.to(device)
    return evaluate(generators, encoders, dataset, truth, options, device)


def evaluate(
    generators: Mapping[str, Generator],
    encoders: Encoders,
    dataset: TextImageDataset,
    truth: AttributeTruth | None,
    options: Options,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Score generators of ``options.model`` by name, and real pictures as ``real``, on test captions.

    R-precision is left out, with a line on standard output, where all captions are of one class.

    Returns:
        One row a metric and subject: ``metric``, ``subject``, ``value`` [percent], more figures, ``protocol``.
    """
    judging = options.evaluation
    dataset = dataset.limited(judging.max_words)
    pairs = draw_pairs(dataset, judging.images, judging.seed)
    mismatched = draw_mismatched(pairs.class_ids, judging.candidates - 1, judging.seed)
    if mismatched.shape[1] == 0:
        print(f"note: R-precision is left out: all {len(pairs)} captions are of one class, there is no wrong one")
        if truth is None or encoders.classifier is None:
            # Nothing is left to judge pictures by: none is made.
            return []
    noise_shape = len(pairs), options.model.noise_dim + options.model.condition_dim
    noise = normal_noise(noise_shape, judging.seed, "evaluation noise").to(device)
    seen = {
        name: see(
            _generated(generator.eval(), pairs, encoders, noise, judging.batch_size),
            encoders.image,
            encoders.classifier,
        )
        for name, generator in generators.items()
    }
    seen["real"] = _see_real(dataset, encoders, judging.batch_size, device)[torch.from_numpy(pairs.records)]
    return _r_precision_rows(seen, pairs, mismatched, encoders, judging) + _attribute_rows(
        seen, pairs, encoders, dataset, truth, judging
    )


@torch.no_grad()
def _generated(
    generator: Generator, pairs: EvaluationPairs, encoders: Encoders, noise: Tensor, batch_size: int
) -> Iterator[Tensor]:
    """Last pictures of a generator for every pair, in batches (b, 3, s, s); noise (N, Z + C): the condition's last."""
    batches = (tensor.split(batch_size) for tensor in (pairs.tokens, pairs.lengths, noise))
    for tokens, lengths, drawn in zip(*batches, strict=True):
        words, sentence, mask = encoders.encode(tokens, lengths)
        own, condition = drawn[:, : generator.noise_dim], drawn[:, generator.noise_dim :]
        yield generator(own, sentence, words, mask, condition_noise=condition).images[-1]


def _see_real(dataset: TextImageDataset, encoders: Encoders, batch_size: int, device: torch.device) -> Seen:
    """What is seen in every record's own picture, at the largest size."""
    batches = evaluation_batches(dataset, batch_size)
    pictures = (to_scales(batch.pixels.to(device), dataset.sizes[-1:])[0] for batch in batches)
    return see(pictures, encoders.image, encoders.classifier)


def _r_precision_rows(
    seen: Mapping[str, Seen],
    pairs: EvaluationPairs,
    mismatched: np.ndarray,
    encoders: Encoders,
    judging: EvaluationOptions,
) -> list[dict[str, Any]]:
    if mismatched.shape[1] == 0:
        return []
    batches = zip(pairs.tokens.split(judging.batch_size), pairs.lengths.split(judging.batch_size), strict=True)
    sentences = torch.cat([encoders.encode(tokens, lengths)[1].cpu() for tokens, lengths in batches])
    protocol = _protocol(judging) | {
        "name": "damsm",
        "candidates": 1 + mismatched.shape[1],
        "folds": judging.folds,
        "extractor": type(encoders.image).__name__,
        "extractor_weights": weights_digest(encoders.image),
        "text_encoder_weights": weights_digest(encoders.text),
    }
    rows = []
    for subject, pictures in seen.items():
        mean, deviation = r_precision(pictures.features, sentences, mismatched, judging.folds)
        rows.append(metric_row("r_precision", subject, mean, {"std": round(deviation, 3)}, protocol))
    return rows


def _attribute_rows(
    seen: Mapping[str, Seen],
    pairs: EvaluationPairs,
    encoders: Encoders,
    dataset: TextImageDataset,
    truth: AttributeTruth | None,
    judging: EvaluationOptions,
) -> list[dict[str, Any]]:
    if truth is None or encoders.classifier is None:
        return []
    records = [dataset.records[record] for record in pairs.records]
    wanted, named = attribute_targets(records, truth), named_attributes(records, pairs.captions, truth)
    protocol = _protocol(judging) | {
        "extractor": type(encoders.classifier).__name__,
        "extractor_weights": weights_digest(encoders.classifier),
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
