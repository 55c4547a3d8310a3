"""Tables of several runs, in Markdown and LaTeX, every figure with the protocol that it was computed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvmgan.metrics.metric_rows import figure, title

Rows = Sequence[Mapping[str, Any]]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "³": r"$^3$",
}


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """A protocol on one line, "split test, images 30000, ...", without the names of what it has."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in protocol.items())


def markdown(named: Mapping[str, Rows]) -> str:
    """A Markdown table: a line for each source's subject, a column a metric, a note for each protocol.

    Args:
        named: by the source's name, rows of :func:`kvmgan.metrics.metric_rows.metric_row`.
    """
    titles, lines, notes = _laid_out(named)
    text = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    for name, cells in lines:
        shown = (f"{value} <sup>{note}</sup>" if value else "–" for value, note in cells)
        text.append(f"| {name.replace('|', chr(92) + '|')} | {' | '.join(shown)} |")
    text += ["", *(f"<sup>{note}</sup> {protocol}  " for protocol, note in notes.items())]
    return "\n".join(text) + "\n"


def latex(named: Mapping[str, Rows]) -> str:
    """The same as a LaTeX tabular with rules of booktabs, and the notes as lines below it."""
    titles, lines, notes = _laid_out(named)
    text = [r"\begin{tabular}{l" + "r" * len(titles) + "}", r"\toprule"]
    text += [" & ".join(["", *map(_escaped, titles)]) + r" \\", r"\midrule"]
    for name, cells in lines:
        shown = (f"{_escaped(value)}$^{{{note}}}$" if value else "--" for value, note in cells)
        text.append(" & ".join([_escaped(name), *shown]) + r" \\")
    text += [r"\bottomrule", r"\end{tabular}", ""]
    text += [f"$^{{{note}}}$ {_escaped(protocol)}\\par" for protocol, note in notes.items()]
    return "\n".join(text) + "\n"


def _laid_out(
    named: Mapping[str, Rows],
) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]], dict[str, str]]:
    """Titles of the columns; lines of a name and (figure, note) cells, empty where there is none; protocol -> note."""
    rows = [(_line_name(source, row), row) for source, of_source in named.items() for row in of_source]
    metrics = list(dict.fromkeys(row["metric"] for _, row in rows))
    notes: dict[str, str] = {}
    cells: dict[str, dict[str, tuple[str, str]]] = {}
    for name, row in rows:
        note = notes.setdefault(protocol_text(row["protocol"]), str(len(notes) + 1))
        cells.setdefault(name, {})[row["metric"]] = (figure(row), note)
    lines = [(name, [own.get(metric, ("", "")) for metric in metrics]) for name, own in cells.items()]
    return [title(metric) for metric in metrics], lines, notes


def _line_name(source: str, row: Mapping[str, Any]) -> str:
    """The published methods stand under their own names."""
    return f"{source}, {row['subject']}" if source else row["subject"]


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
