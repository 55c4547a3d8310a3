"""The stages of pictures side by side, from coarse to fine, behind their captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from kvmgan.figures.captioned_rows import captioned_rows


def stage_strip(
    captions: Sequence[str], stages: Sequence[Sequence[Image.Image]], real: Sequence[Image.Image] | None = None
) -> Image.Image:
    """Draw a row a caption, a column a stage, all enlarged to one size.

    Args:
        stages: of each caption its pictures, from coarse to fine.
        real: of each caption the real picture that it describes, as the last column.

    Raises:
        ValueError: there isn't one caption a row of stages, or one real picture.
    """
    headings = [f"{picture.width} x {picture.width} pixels" for picture in stages[0]] if stages else []
    if real is None:
        return captioned_rows(captions, stages, headings, side=192)
    if len(real) != len(stages):
        raise ValueError(f"real has {len(real)} pictures, expected one for each of {len(stages)} captions")
    rows = [[*own, picture] for own, picture in zip(stages, real, strict=True)]
    return captioned_rows(captions, rows, [*headings, "real"], side=192)
