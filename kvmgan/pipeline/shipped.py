"""Models that come with the package: ``kvmgan/pretrained/<name>/``, in the format of `kvmgan.pipeline.folder`."""

from __future__ import annotations

from pathlib import Path

PRETRAINED = Path(__file__).parents[1] / "pretrained"
NAMES = ("birds",)
"""Names that may be asked for, whether or not this build ships their weights."""


def shipped_names() -> list[str]:
    """The names of the models whose weights this build ships."""
    return [name for name in NAMES if (PRETRAINED / name).is_dir()]


def shipped_folder(name: str) -> Path:
    """Where the model of a name lies, or would."""
    return PRETRAINED / name
