"""Training of the attribute classifier on real drawings."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from kvmgan.config import ClassifierOptions
from kvmgan.data.batches import BatchStream
from kvmgan.data.dataset import TextImageDataset
from kvmgan.data.pixels import to_scales
from kvmgan.data.prefetch import prefetched
from kvmgan.data.procedural.archive import AttributeTruth
from kvmgan.metrics.attribute_accuracy import attribute_targets
from kvmgan.models.attribute_classifier import AttributeClassifier
from kvmgan.random_streams import torch_stream
from kvmgan.runs.progress import Progress

# Raise it when the same settings, data and seed come to give other weights: a cached classifier is then made anew.
CLASSIFIER_VERSION = 1
REPORT_INTERVAL = 100


def train_classifier(
    dataset: TextImageDataset,
    truth: AttributeTruth,
    settings: ClassifierOptions,
    *,
    size: int,
    seed: int,
    workers: int,
    device: torch.device,
) -> AttributeClassifier:
    """Train on the drawings of ``dataset``, at ``size`` pixels, with the summed cross-entropy of all attributes.

    Returns the classifier frozen.
    """
    targets = {name: values.to(device) for name, values in attribute_targets(dataset.records, truth).items()}
    stream = BatchStream(dataset, settings.batch_size, seed=seed, purpose="classifier", workers=workers)
    cardinalities = {name: len(values) for name, values in truth.values.items()}
    with torch_stream(device, seed, "classifier weights"):
        classifier = AttributeClassifier(cardinalities, width=settings.width).to(device)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=settings.lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(settings.steps, 1))
    batches = prefetched(itertools.islice(stream.iterate(0), settings.steps), device)
    with Progress("attribute classifier", settings.steps) as progress:
        for step, batch in enumerate(batches, start=1):
            logits = classifier(to_scales(batch.pixels, (size,))[0])
            loss = sum(F.cross_entropy(logits[name], targets[name][batch.indices]) for name in cardinalities)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.advance(len(batch.tokens))
            if step % REPORT_INTERVAL == 0 or step == settings.steps:
                progress.report({"loss": loss.item()})
    return classifier.eval().requires_grad_(False)
