"""The report of runs: one page that needs nothing beside it."""

from __future__ import annotations

import html.parser
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kvmgan.errors import UserError
from kvmgan.report import main
from kvmgan.reporting.curves import draw_curves, panels, save_curves
from kvmgan.reporting.page import _settings, _spread
from kvmgan.reporting.run_record import RunRecord, read_run, read_runs


class Elements(html.parser.HTMLParser):
    """Collects the tags with their attributes, and finds those that aren't closed."""

    VOID = ("meta", "img", "br", "link", "path", "use", "rect")

    def __init__(self, text: str):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def record(name: str, **settings: object) -> RunRecord:
    return RunRecord(name, settings, {"g": [(5, 1.0), (10, 0.5)], "d32_real_conditional": [(5, 1.0)]}, [], {})


def test_a_run_is_shown_whole_and_alone(tiny_run, tmp_path, capsys):
    """Curves, metrics with protocols, pictures and settings; every address is the page's own."""
    out = tmp_path / "page.html"
    assert main([str(tiny_run), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    text = out.read_text()
    page = Elements(text)
    assert page.open == []
    pictures = [attributes["src"] for tag, attributes in page.found if tag == "img"]
    # Steps 0, 3 and 6; the last stages, attention, seeds, words and nearest pictures; the strip over the training.
    assert len(pictures) == 3 + 5 + 1 and all(address.startswith("data:image/png;base64,") for address in pictures)
    for tag, attributes in page.found:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes)
    assert "<script" not in text and "url(http" not in text
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert f"weights {rows[-1]['protocol']['extractor_weights']}" in text
    for title in (
        "One caption over the training",
        "One word changed at a time",
        "nearest to",
        "d32",
        "damsm_word",
        "d16_accuracy",
        "r_precision_ema",
        "training.seed",
        "R-precision %",
    ):
        assert title in text, title


def test_several_runs_stand_over_one_another(tiny_run, tmp_path):
    """A curve and a column each; settings that differ come first and are marked."""
    other = Path(shutil.copytree(tiny_run, tmp_path / "00001-<other>"))
    config = other / "config.yaml"
    config.write_text(re.sub(r"lambda_damsm: \S+", "lambda_damsm: 7.5", config.read_text()))
    assert main([str(tiny_run), str(other)]) == 0
    text = (tiny_run / "report.html").read_text()
    (tiny_run / "report.html").unlink()
    assert Elements(text).open == []
    assert "00001-&lt;other&gt;" in text and "00001-<other>" not in text
    marked = re.findall(r'<tr class="differs"><td>([^<]*)</td>(.*)</tr>', text)
    assert [name for name, _ in marked] == ["training.lambda_damsm"] and "<td>7.5</td>" in marked[0][1]


def test_runs_of_one_name_are_told_apart(tiny_run, tmp_path, capsys):
    """By their whole paths: none hides the other's curves. The same one twice is a mistake."""
    other = Path(shutil.copytree(tiny_run, tmp_path / tiny_run.name))
    first, second = read_runs([tiny_run, other])
    assert (first.name, second.name) == (str(tiny_run.resolve()), str(other.resolve()))
    assert len(panels([first, second])["g"]) == 2
    assert main([str(other), f"{other}/"]) == 2
    assert f"{other.resolve()} is named twice" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium isn't installed")
def test_a_browser_without_a_network_shows_curves_and_pictures(tiny_run, tmp_path):
    """Of a screenshot: the curves' colour, and the pictures' many colours below them."""
    out, shot = tmp_path / "page.html", tmp_path / "shot.png"
    assert main([str(tiny_run), "--out", str(out)]) == 0
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,6000", f"--screenshot={shot}"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'browser'}"]
    subprocess.run(["chromium", *options, *offline, out.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    curve = np.abs(pixels - (31, 119, 180)).max(axis=2) < 8
    rows = np.flatnonzero(curve.any(axis=1))
    assert len(rows) > 200
    below = pixels[rows[-1] :].reshape(-1, 3)
    assert len(np.unique(below, axis=0)) > 1000


def test_the_same_runs_give_the_same_drawing():
    runs = [record("one"), record("two")]
    assert draw_curves(panels(runs)) == draw_curves(panels(runs))


def test_curves_are_a_png_too(tmp_path, tiny_run):
    """Of a run at its end: losses and metrics, both there; nothing temporary beside it, and a full disk is one line."""
    with Image.open(tiny_run / "curves.png") as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    found = panels([read_run(tiny_run)])
    assert {"g", "d32", "r_precision_ema", "attribute_accuracy_ema", "write_gate_1"} <= set(found)
    assert drawn.shape[0] > 200 * math.ceil(len(found) / 3) and drawn.shape[1] > 1000
    # The curves' colour is in every row of panels.
    curve = (np.abs(drawn - (31, 119, 180)).max(axis=2) < 8).any(axis=1)
    assert all(part.any() for part in np.array_split(curve, math.ceil(len(found) / 3)))
    save_curves(found, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with pytest.raises(UserError, match=r"curves.png/x.png cannot be written"):
        save_curves(found, tmp_path / "curves.png" / "x.png")


def test_parts_of_losses_have_no_panel():
    assert list(panels([record("one")])) == ["g"]


def test_a_run_that_has_just_begun_or_was_cut_is_shown(tiny_run, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"step": 7, "g": 1.\n[]\n')
    assert max(step for step, _ in read_run(run).curves["g"]) == 6
    for path in (run / "stats.jsonl", run / "metrics.jsonl"):
        path.unlink()
    for name in ("samples", "stages", "attention", "seeds", "words", "nearest"):
        shutil.rmtree(run / name)
    (run / "history.png").unlink()
    assert main([str(run)]) == 0
    assert "not judged yet" in (run / "report.html").read_text()


def test_settings_of_different_versions_stand_side_by_side():
    rows = _settings([record("one", steps=3), record("two", steps=3, extra=1)])
    assert rows == [("extra", ["", "1"], True), ("steps", ["3", "3"], False)]


def test_pictures_over_time_are_spread_and_end_with_the_last():
    paths = [Path(str(number)) for number in range(21)]
    assert [path.name for path in _spread(paths)] == ["0", "4", "8", "12", "16", "20"]
    assert _spread(paths[:2]) == paths[:2] and _spread(paths[:1]) == paths[:1]


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "no run is named"), (["/nonexistent"], "/nonexistent is no run folder"), (["--outt", "x"], "unknown option")],
)
def test_bad_words_are_one_line(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("curve", [[(6, 3.0)], [(6, 3.0), (6, 3.5)]], ids=["once", "again"])
def test_a_figure_of_one_step_is_seen(curve):
    """A resumed run that was at its end is judged there again: a line without length shows nothing, a marker does."""
    drawn = draw_curves({"r_precision_ema": {"run": curve}})
    # Ticks are outside of the panel, by which markers are clipped.
    assert re.search(r'<g clip-path="[^"]*">\s*<use ', drawn)
    assert not re.search(r'<g clip-path="[^"]*">\s*<use ', draw_curves({"g": {"run": [(5, 3.0), (6, 3.0)]}}))
