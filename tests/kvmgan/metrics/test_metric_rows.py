"""The lines of metrics.jsonl and the table that is printed of them."""

from __future__ import annotations

import json

import pytest

from kvmgan.errors import UserError
from kvmgan.metrics.metric_rows import append_metrics, format_metrics, metric_row

ROWS = [
    metric_row("r_precision", "ema", 71.23456, {"std": 1.25}, {"seed": 3}),
    metric_row("r_precision", "real", 90.0, {"std": 0.0}, {"seed": 3}),
    metric_row("attribute_accuracy", "ema", 55.0, {}, {}),
    metric_row("attribute_accuracy", "real", 99.96, {}, {}),
]


def test_lines_are_added_to_those_that_are_there(tmp_path):
    """Every row becomes a line of its own with its step, after the lines of earlier evaluations."""
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, ROWS[:1], 5)
    append_metrics(path, [], 6)
    append_metrics(path, ROWS[1:], 7)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 7, 7, 7]
    first = {"step": 5, "metric": "r_precision", "subject": "ema", "value": 71.2346, "std": 1.25}
    assert list(lines[0].items()) == [*first.items(), ("protocol", {"seed": 3})]


def test_a_file_that_cannot_be_written_is_one_line_even_without_a_row(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: Is a directory"):
        append_metrics(tmp_path / "metrics.jsonl", [], 0)


def test_table_has_a_line_a_subject_and_a_column_a_metric():
    lines = [line.split() for line in format_metrics(ROWS).splitlines()]
    assert lines == [
        ["R-precision", "%", "attributes", "%"],
        ["ema", "71.2", "±", "1.2", "55.0"],
        ["real", "90.0", "±", "0.0", "100.0"],
    ]


def test_a_metric_that_a_subject_lacks_leaves_its_place_empty_and_small_figures_are_kept():
    """A kernel distance is shown times a thousand and stored as it is."""
    row = metric_row("kd", "ema", 0.000412345678, {"std": 0.0001}, {})
    assert row["value"] == 0.000412346
    lines = format_metrics([ROWS[1], row]).splitlines()
    assert lines[0].split() == ["R-precision", "%", "KD", "×10³"]
    assert lines[1].split() == ["real", "90.0", "±", "0.0"]
    assert lines[2].split() == ["ema", "0.41", "±", "0.10"]
    assert len({len(line) for line in lines}) == 1


def test_table_of_nothing_says_so():
    assert format_metrics([]) == "no metric can be computed on this data"
