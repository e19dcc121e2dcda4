"""Texts of data in markdown files."""

from __future__ import annotations


def in_markdown(text: str) -> str:
    """A text in one line of markdown, where it starts neither a cell nor HTML, nor a link or an image to fetch."""
    for mark, shown in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("](", "\\](")):
        text = text.replace(mark, shown)
    return " ".join(text.split())
