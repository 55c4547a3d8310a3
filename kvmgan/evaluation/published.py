"""Figures as they were published, to stand beside one's own."""

from __future__ import annotations

from typing import Any, Literal

from kvmgan.metrics.metric_rows import metric_row

DataSet = Literal["cub", "coco"]

# Inception Score, FID, R-precision [percent] by data set; None where none was published.
_FIGURES: dict[DataSet, dict[str, tuple[float | None, float | None, float | None]]] = {
    "cub": {
        "GAN-INT-CLS": (2.88, None, None),
        "GAWWN": (3.62, None, None),
        "StackGAN": (3.70, None, None),
        "AttnGAN": (4.36, 23.98, 67.82),
        "KVM-GAN (draft)": (4.75, 16.09, 72.31),
        "DM-GAN, released weights": (4.71, 15.34, 76.58),
    },
    "coco": {
        "GAN-INT-CLS": (7.88, None, None),
        "StackGAN": (8.45, None, None),
        "PPGN": (9.58, None, None),
        "AttnGAN": (25.89, 35.49, 85.47),
        "KVM-GAN (draft)": (30.49, 32.64, 88.56),
        "DM-GAN, released weights": (32.43, 26.55, 92.23),
    },
}
_INCEPTION_SCORE = {
    "cub": "Inception fine-tuned on 50 classes of CUB, background class dropped, 10 splits",
    "coco": "Inception of 2015, logits without bias, 10 splits",
}


def published_rows(data_set: DataSet) -> list[dict[str, Any]]:
    """The published figures of a data set, as rows whose subject is the method; each protocol begins "published"."""
    protocols = {
        "is": f"published: {_INCEPTION_SCORE[data_set]}, 30,000 pictures",
        "fid": "published: torchvision's Inception, [0, 1] pictures through the affine map of normalised ones "
        "(legacy-dmgan), 30,000 pictures; reference statistics differ between projects",
        "r_precision": "published: DAMSM encoders, 1 of 100, ten folds of 3,000",
    }
    return [
        metric_row(metric, method, value, {}, {"protocol": protocols[metric]})
        for method, figures in _FIGURES[data_set].items()
        for metric, value in zip(("is", "fid", "r_precision"), figures, strict=True)
        if value is not None
    ]
