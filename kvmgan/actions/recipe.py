"""How a picture was made, as its file says it, and a name for the file under which no other picture is lost."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from kvmgan.code_version import code_version
from kvmgan.figures.pictures import png_text


@dataclass(frozen=True)
class Recipe:
    """All that decides a picture but the machine it is drawn on.

    number: of the picture among those of its caption, from 1. weights: hashes of the networks' weights.
    """

    caption: str
    number: int
    seed: int
    truncation: float
    tries: int
    dtype: str
    weights: str

    def as_text(self) -> dict[str, str]:
        """For the text of a PNG file: the caption and the program by the specification's keywords, the rest in JSON."""
        settings = {name: value for name, value in vars(self).items() if name != "caption"}
        software = f"kvmgan {code_version()}"
        return {"Description": self.caption, "Software": software, "Comment": json.dumps(settings)}


def free_stem(stem: Path, recipe: Recipe) -> Path:
    """``stem``, or ``stem~2``, ``stem~3``, ...: the first whose picture isn't there, or was made by the same recipe."""
    text = recipe.as_text()
    names = itertools.chain([stem.name], (f"{stem.name}~{number}" for number in itertools.count(2)))
    stems = (stem.with_name(name) for name in names)
    return next(
        one for one in stems if not (path := one.with_name(f"{one.name}.png")).exists() or png_text(path) == text
    )
