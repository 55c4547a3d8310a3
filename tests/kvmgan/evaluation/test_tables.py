"""Tables of several runs."""

from __future__ import annotations

from kvmgan.evaluation.published import published_rows
from kvmgan.evaluation.tables import latex, markdown
from kvmgan.metrics.metric_rows import metric_row

ROWS = {
    "one_run": [
        metric_row("fid", "ema", 12.3456, {}, {"name": "tf", "images": 30}),
        metric_row("kid", "ema", 0.00123, {"std": 0.0004}, {"name": "tf", "images": 30}),
    ],
    "other|run": [metric_row("fid", "ema", 20, {}, {"name": "clean", "images": 30})],
}


def test_markdown_has_a_note_for_each_protocol_and_a_dash_for_what_is_missing():
    assert (
        markdown(ROWS)
        == """\
| | FID | KID ×10³ |
|---|---|---|
| one_run, ema | 12.35 <sup>1</sup> | 1.23 ± 0.40 <sup>1</sup> |
| other\\|run, ema | 20.00 <sup>2</sup> | – |

<sup>1</sup> name tf, images 30  
<sup>2</sup> name clean, images 30  
"""
    )


def test_latex_escapes_what_it_must():
    assert (
        latex(ROWS)
        == r"""\begin{tabular}{lrr}
\toprule
 & FID & KID $\times$10$^3$ \\
\midrule
one\_run, ema & 12.35$^{1}$ & 1.23 $\pm$ 0.40$^{1}$ \\
other|run, ema & 20.00$^{2}$ & -- \\
\bottomrule
\end{tabular}

$^{1}$ name tf, images 30\par
$^{2}$ name clean, images 30\par
"""
    )


def test_published_figures_stand_under_their_methods_names():
    """Of the papers' tables: IS, FID and R-precision of AttnGAN on both data sets."""
    for data_set, figures in (("cub", (4.36, 23.98, 67.82)), ("coco", (25.89, 35.49, 85.47))):
        rows = [row for row in published_rows(data_set) if row["subject"] == "AttnGAN"]
        assert [(row["metric"], row["value"]) for row in rows] == list(
            zip(("is", "fid", "r_precision"), figures, strict=True)
        )
        assert all(row["protocol"]["protocol"].startswith("published: ") for row in rows)
    text = markdown({"": published_rows("cub")} | ROWS)
    assert "| GAWWN | 3.62 <sup>1</sup> | – | – | – |" in text
    assert "published" in text and "one_run, ema" in text
