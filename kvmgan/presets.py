"""The named presets: complete options to start from."""

from __future__ import annotations

import difflib

from kvmgan.config import (
    ClassifierOptions,
    DamsmOptions,
    DataOptions,
    DiscriminatorOptions,
    EvaluationOptions,
    MemoryOptions,
    ModelOptions,
    Options,
    TrainingOptions,
)
from kvmgan.data.procedural.archive import BirdsSettings
from kvmgan.errors import UserError


def _birds_tiny() -> Options:
    """16 -> 32 -> 64 pixels: from nothing to a trained model in less than half an hour on two slow CPU cores."""
    return Options(
        preset="birds-tiny",
        data=DataOptions(name="birds", max_words=18),
        model=ModelOptions(base_size=16, width=24, noise_dim=32, condition_dim=32, residual_blocks=1),
        discriminator=DiscriminatorOptions(width=16, detail_gain=8.0),
        damsm=DamsmOptions(
            encoder="small",
            width=24,
            embedding_dim=64,
            word_dim=128,
            dropout=0.1,
            epochs=13,
            batch_size=32,
            lr_decay=0.95,
            validation_interval=3,
            validation_images=500,
        ),
        classifier=ClassifierOptions(width=16, steps=600),
        training=TrainingOptions(
            steps=2000,
            batch_size=16,
            # Sixteen times the papers': two thousand steps is all there is (docs/training.md has what was tried).
            lr_generator=3.2e-3,
            lr_discriminator=3.2e-3,
            lambda_damsm=2.0,
            precision="auto",
            ema_decay=0.995,
            log_interval=25,
            sample_interval=500,
            checkpoint_interval=1000,
            keep_checkpoints=2,
        ),
        evaluation=EvaluationOptions(images=1000, batch_size=50),
    )


def _birds() -> Options:
    """64 -> 128 -> 256 pixels of the procedural birds, for a GPU."""
    return Options(
        preset="birds",
        data=DataOptions(name="birds", birds=BirdsSettings(image_size=304), workers=4),
        damsm=DamsmOptions(encoder="small", epochs=48),
        classifier=ClassifierOptions(steps=2000),
        training=TrainingOptions(steps=100_000, batch_size=16, precision="auto"),
    )


def _cub() -> Options:
    """CUB-200-2011 by DM-GAN's recipe: 800 epochs of 8,855 birds, 885 batches of 10 each."""
    return Options(
        preset="cub",
        data=DataOptions(name="cub", max_words=18, workers=4),
        model=ModelOptions(memory=MemoryOptions(detach_mean=True)),
        damsm=DamsmOptions(encoder="inception", max_words=18, epochs=200),
        training=TrainingOptions(
            steps=708_000,
            batch_size=10,
            lambda_damsm=5.0,
            precision="auto",
            log_interval=200,
            sample_interval=5000,
        ),
        evaluation=EvaluationOptions(images=30_000, max_words=25),
    )


def _coco() -> Options:
    """COCO 2014 by DM-GAN's recipe: 200 epochs of 82,783 pictures, 5,173 batches of 16 each."""
    return Options(
        preset="coco",
        data=DataOptions(name="coco", max_words=12, workers=4),
        model=ModelOptions(residual_blocks=3, memory=MemoryOptions(detach_mean=True)),
        damsm=DamsmOptions(encoder="inception", max_words=15, epochs=100),
        training=TrainingOptions(
            steps=1_034_600,
            batch_size=16,
            lambda_damsm=50.0,
            precision="auto",
            log_interval=200,
            sample_interval=5000,
        ),
        evaluation=EvaluationOptions(images=30_000, max_words=20),
    )


PRESETS = {"birds-tiny": _birds_tiny, "birds": _birds, "cub": _cub, "coco": _coco}


def preset_options(name: str) -> Options:
    """The options of a preset.

    Raises:
        UserError: for an unknown name; the message lists the presets and the nearest one.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown preset {name!r}{hint}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()
