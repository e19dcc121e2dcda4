"""Texts of data in Markdown, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def in_markdown(text: str) -> str:
    """A text in one line of markdown, where it starts neither a cell nor HTML, nor a link or an image to fetch."""
    for mark, shown in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("](", "\\](")):
        text = text.replace(mark, shown)
    return " ".join(text.split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], rule: str = " --- ", padded: bool = False) -> list[str]:
    """Lines of a table of texts that are Markdown already; `padded` so that it also reads as plain text."""
    grid = [head, *rows]
    widths = [max(3, *map(len, column)) if padded else 0 for column in zip(*grid, strict=True)]
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in grid]
    return [lines[0], f"|{'|'.join('-' * (w + 2) if padded else rule for w in widths)}|", *lines[1:]]
