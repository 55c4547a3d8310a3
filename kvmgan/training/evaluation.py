"""The metrics of a run: R-precision and attribute accuracy of generators, and of real pictures beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kvmgan.code_version import code_version
from kvmgan.config import EvaluationOptions
from kvmgan.data.batches import evaluation_batches
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.errors import UserError
from kvmgan.metrics.attribute_accuracy import attribute_accuracy, attribute_targets, named_attributes
from kvmgan.metrics.r_precision import draw_mismatched, r_precision
from kvmgan.models.generator import Generator
from kvmgan.training.encoders import Encoders, weights_digest


@dataclass
class TestPairs:
    """N pairs of a test record and one of its captions."""

    records: np.ndarray
    captions: np.ndarray
    class_ids: np.ndarray
    tokens: Tensor
    lengths: Tensor


@dataclass
class Seen:
    """What the frozen encoders see in N pictures: features (N, D) and attribute -> value index (N,)."""

    features: Tensor
    attributes: dict[str, Tensor]


def draw_pairs(dataset: TextImageDataset, count: int, seed: int) -> TestPairs:
    """Draw ``count`` pairs: every record once in random order, then again, each time with a random caption."""
    rng = np.random.default_rng((seed, 0))
    rounds = -(-count // len(dataset))
    records = np.concatenate([rng.permutation(len(dataset)) for _ in range(rounds)])[:count]
    first = [int(rng.integers(len(dataset.records[record].captions))) for record in records]
    encoded = [_encode(dataset, int(record), caption) for record, caption in zip(records, first, strict=True)]
    return TestPairs(
        records,
        np.array([caption for caption, _, _ in encoded]),
        np.array([dataset.records[record].class_id for record in records]),
        torch.stack([tokens for _, tokens, _ in encoded]),
        torch.tensor([length for _, _, length in encoded]),
    )


def _encode(dataset: TextImageDataset, record: int, caption: int) -> tuple[int, Tensor, int]:
    """Index, tokens and length of a caption, or of the record's next one that holds a known word."""
    count = len(dataset.records[record].captions)
    for index in range(caption, caption + count - 1):
        try:
            return index % count, *dataset.encode_caption(record, index % count)
        except UserError:
            continue
    # Every record of a dataset has a caption that can be encoded: it is the last one left.
    last = (caption - 1) % count
    return last, *dataset.encode_caption(record, last)


def check_candidates(dataset: TextImageDataset, options: EvaluationOptions) -> None:
    """Find out before training whether R-precision has enough captions to choose among.

    Raises:
        UserError: if it hasn't.
    """
    draw_mismatched(draw_pairs(dataset, options.images, options.seed).class_ids, options.candidates - 1, options.seed)


@torch.no_grad()
def see(batches: Iterator[Tensor], encoders: Encoders) -> Seen:
    """Encode pictures (b, 3, s, s), batch by batch."""
    features, attributes = [], []
    for images in batches:
        features.append(encoders.image(images)[1].cpu())
        if encoders.classifier is not None:
            attributes.append({name: x.argmax(dim=1).cpu() for name, x in encoders.classifier(images).items()})
    names = attributes[0] if attributes else ()
    return Seen(torch.cat(features), {name: torch.cat([part[name] for part in attributes]) for name in names})


@torch.no_grad()
def generate(
    generator: Generator, pairs: TestPairs, encoders: Encoders, options: EvaluationOptions, device: torch.device
) -> Iterator[Tensor]:
    """Last pictures of a generator in evaluation mode for every pair, in batches (b, 3, s, s)."""
    noise = torch.randn(len(pairs.tokens), generator.noise_dim, generator=torch.Generator().manual_seed(options.seed))
    for rows in torch.arange(len(noise)).split(options.batch_size):
        words, sentence, mask = encoders.encode(pairs.tokens[rows].to(device), pairs.lengths[rows].to(device))
        yield generator(noise[rows].to(device), sentence, words, mask).images[-1]


def evaluate(
    generators: Mapping[str, Generator],
    encoders: Encoders,
    dataset: TextImageDataset,
    truth: AttributeTruth | None,
    options: EvaluationOptions,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Score generators by name, and real pictures as ``real``, on test captions.

    Returns:
        One row a metric and subject: ``metric``, ``subject``, ``value`` [percent], more figures, ``protocol``.
    """
    pairs = draw_pairs(dataset, options.images, options.seed)
    mismatched = draw_mismatched(pairs.class_ids, options.candidates - 1, options.seed)
    sentences = torch.cat(
        [
            encoders.encode(tokens.to(device), lengths.to(device))[1].cpu()
            for tokens, lengths in zip(
                pairs.tokens.split(options.batch_size), pairs.lengths.split(options.batch_size), strict=True
            )
        ]
    )
    seen = {
        name: see(generate(generator.eval(), pairs, encoders, options, device), encoders)
        for name, generator in generators.items()
    }
    real = see((b.images[-1].to(device) for b in evaluation_batches(dataset, options.batch_size)), encoders)
    rows = torch.from_numpy(pairs.records)
    seen["real"] = Seen(real.features[rows], {name: values[rows] for name, values in real.attributes.items()})
    return _r_precision_rows(seen, sentences, mismatched, encoders, options) + _attribute_rows(
        seen, pairs, encoders, dataset, truth, options
    )


def _r_precision_rows(
    seen: Mapping[str, Seen], sentences: Tensor, mismatched: np.ndarray, encoders: Encoders, options: EvaluationOptions
) -> list[dict[str, Any]]:
    protocol = _protocol(options) | {
        "name": "damsm",
        "candidates": options.candidates,
        "folds": options.folds,
        "extractor": type(encoders.image).__name__,
        "extractor_weights": weights_digest(encoders.image),
        "text_encoder_weights": weights_digest(encoders.text),
    }
    rows = []
    for subject, pictures in seen.items():
        mean, deviation = r_precision(pictures.features, sentences, mismatched, options.folds)
        rows.append(_row("r_precision", subject, mean, {"std": round(deviation, 3)}, protocol))
    return rows


def _attribute_rows(
    seen: Mapping[str, Seen],
    pairs: TestPairs,
    encoders: Encoders,
    dataset: TextImageDataset,
    truth: AttributeTruth | None,
    options: EvaluationOptions,
) -> list[dict[str, Any]]:
    if truth is None or encoders.classifier is None:
        return []
    records = [dataset.records[r] for r in pairs.records]
    wanted, named = attribute_targets(records, truth), named_attributes(records, pairs.captions, truth)
    protocol = _protocol(options) | {
        "extractor": type(encoders.classifier).__name__,
        "extractor_weights": weights_digest(encoders.classifier),
    }
    rows = []
    for subject, pictures in seen.items():
        score = attribute_accuracy(pictures.attributes, wanted, named)
        by_attribute = {name: round(value, 2) for name, value in score.by_attribute.items()}
        extra = {"named": score.named, "by_attribute": by_attribute}
        rows.append(_row("attribute_accuracy", subject, score.accuracy, extra, protocol))
    return rows


def _protocol(options: EvaluationOptions) -> dict[str, Any]:
    return {"split": "test", "images": options.images, "seed": options.seed, "code_version": code_version()}


def _row(
    metric: str, subject: str, value: float, extra: Mapping[str, Any], protocol: Mapping[str, Any]
) -> dict[str, Any]:
    return {"metric": metric, "subject": subject, "value": round(value, 3), **extra, "protocol": dict(protocol)}


def append_metrics(path: Path, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    """Add the rows to a ``metrics.jsonl``, each with the training step that it belongs to."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps({"step": step, **row}) + "\n" for row in rows))


def format_metrics(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table: subjects down, metrics across [percent]."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    values = {(row["subject"], row["metric"]): row for row in rows}
    lines = [f"{'':<12}" + "".join(f"{metric + ' %':>26}" for metric in metrics)]
    for subject in subjects:
        cells = []
        for metric in metrics:
            row = values[subject, metric]
            cells.append(f"{row['value']:.1f}" + (f" ± {row['std']:.1f}" if "std" in row else ""))
        lines.append(f"{subject:<12}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)
