"""Pictures of captions as files."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kvmgan.actions.recipe import Recipe, free_stem
from kvmgan.figures.attention_maps import attention_maps
from kvmgan.figures.pictures import save_png
from kvmgan.figures.stage_strip import stage_strip
from kvmgan.files import check_writable
from kvmgan.models.weights_digest import weights_digest
from kvmgan.pipeline.caption import read_caption
from kvmgan.pipeline.generated_image import GeneratedImage
from kvmgan.pipeline.pipeline import Pipeline
from kvmgan.pipeline.stored_model import find_model
from kvmgan.runs.interruption import SignalGuard
from kvmgan.training.device import resolve_device


@dataclass(frozen=True)
class Drawing:
    """What is asked of every caption: see :meth:`kvmgan.Pipeline.__call__`."""

    count: int
    seed: int
    truncation: float
    tries: int | None
    batch_size: int


def sample(source: str, texts: Sequence[str], asked: Drawing, out: Path, device: str, dtype: str) -> None:
    """Draw the captions into ``out``: pictures, their stages and, if the model looks at words, where it does.

    A picture of an earlier call is written anew where all is as it was, and stays beside the new one where it isn't.

    Raises:
        UserError: no such model, device or folder, or a caption without a word that the model knows; before anything
            is drawn.
    """
    place = resolve_device(device, "--device")
    with SignalGuard("pictures finished so far stay"):
        model = find_model(source)
        # Every caption is checked before the first picture is drawn, and the folder, which is then made, last.
        captions = [read_caption(text, model.vocabulary, model.settings.max_words) for text in texts]
        for note in (note for caption in captions for note in caption.notes):
            print(f"warning: {note}", file=sys.stderr)
        check_writable(out, "--out")
        pipeline = Pipeline.of_model(model, device=place)
        networks = (pipeline.generator, pipeline.text_encoder)
        how = {
            "seed": asked.seed,
            "truncation": asked.truncation,
            "tries": asked.tries or pipeline.settings.tries,
            "dtype": dtype,
            "weights": ", ".join(map(weights_digest, networks)),
        }
        pipeline.to(dtype=getattr(torch, dtype))
        for number, caption in enumerate(captions, start=1):
            stem = out / f"{number:03d}-{_slug(caption.text)}"
            for variant, made in enumerate(pipeline(caption, **dataclasses.asdict(asked)), start=1):
                recipe = Recipe(caption.text, number=variant, **how)
                _save(made, stem.with_name(f"{stem.name}-{variant}") if asked.count > 1 else stem, recipe)


def _save(made: GeneratedImage, stem: Path, recipe: Recipe) -> None:
    """Write the picture, its stages and, if the model has them, its attention maps; print their paths."""
    pictures = {"": made.picture, "-stages": stage_strip([made.caption], [made.stages])}
    if made.attention:
        pictures["-attention"] = attention_maps(made.picture, made.attention, made.words, made.caption)
    stem, text = free_stem(stem, recipe), recipe.as_text()
    for kind, picture in pictures.items():
        path = stem.with_name(f"{stem.name}{kind}.png")
        save_png(picture, path, text)
        print(path)


def _slug(text: str) -> str:
    """Letters and digits of a caption, for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-")
