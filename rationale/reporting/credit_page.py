"""Pictures of per-token credit: words on a ground from blue to orange beside their image, as HTML and as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rationale.images import open_image, side_by_side
from rationale.prompts import question_text
from rationale.reporting.credit import EVERYTHING, Credited
from rationale.reporting.figures import COLORS
from rationale.reporting.page import data_uri, equal_shares, filled
from rationale.reporting.tables import Table
from rationale.scoring.judge import is_correct

KINDS = {
    "found": "wrong, and its most negative word lies in the first wrong step",
    "elsewhere": "wrong, and its most negative word lies in another step",
    "unknown": "wrong, without a known first wrong step",
    "right": "right",
}
END = "⟨end⟩"
_LEGEND = (
    "credit: blue negative, orange positive, full colour the largest of the response; underlined: first wrong step"
)
_SHADE = 0.7  # of the colour behind the word of largest credit, so that its ink stays readable on light and dark
_BLUE, _ORANGE = COLORS[:2]
_DPI, _SIZE, _LINE, _WIDTH, _IMAGE, _GAP = 150, 9, 27, 1500, 300, 30  # points for the font, else pixels


@dataclass(frozen=True, slots=True)
class Word:
    """A word as shown; `shade` is its credit over the largest of the response, between -1 and 1."""

    text: str
    credit: float
    shade: float
    broken: bool  # a new line begins with it
    wrong: bool  # it stands in the first wrong step

    @property
    def said(self) -> str:
        return f"{self.credit:+.3f}".replace("-", "−")


def kind_of(found: Credited) -> str:
    """Which of KINDS a response is of."""
    if is_correct(found.response.score):
        return "right"
    if found.wrong_step is None:
        return "unknown"
    credit = found.word_credit
    return "found" if found.steps[credit.index(min(credit))] == found.wrong_step else "elsewhere"


def drawn(all_found: Sequence[Credited], num: int, seed: int) -> tuple[list[tuple[str, Credited]], dict[str, int]]:
    """`num` responses by kind, in equal shares and no question twice, and how many there are of each kind."""
    kinds: dict[str, list[Credited]] = {kind: [] for kind in KINDS}
    for found in all_found:
        kinds[kind_of(found)].append(found)
    counts = {kind: len(found) for kind, found in kinds.items() if found}
    return equal_shares(kinds, num, f"{seed}/credit", lambda found: found.question.question_id), counts


def words_of(found: Credited) -> list[Word]:
    """The words of a response with their credit, the end token last."""
    text, credit = found.response.text, found.word_credit
    largest = max(map(abs, credit)) or 1.0
    said = [text[start:end] for start, end in found.words] + [END] * found.response.finished
    starts = [start for start, _ in found.words]
    broken = ["\n" in text[end:start] for (_, end), start in zip(found.words, starts[1:], strict=False)]
    lines = [False, *broken, False][: len(said)]
    return [
        Word(word, value, value / largest, line, step == found.wrong_step)
        for word, value, line, step in zip(said, credit, lines, found.steps, strict=True)
    ]


def page(
    shown: Sequence[tuple[str, Credited]],
    counts: dict[str, int],
    table: Table | None,
    folder: Path,
    seed: int,
    notes: Sequence[str] = (),
) -> str:
    """The heat maps as one HTML page that fetches nothing; every text is escaped by the template."""
    examples = [
        {
            "kind": kind, "found": found, "words": words_of(found), "asked": question_text(found.question),
            "images": [(data_uri(f), max(open_image(f).size) <= 128) for f in found.question.files(folder)],
        }
        for kind, found in shown
    ]  # fmt: skip
    drawn_of = {kind: (sum(k == kind for k, _ in shown), count) for kind, count in counts.items()}
    contents = [("number", "The number"), ("responses", "Responses")]
    contents += [(kind, text.capitalize()) for kind, text in KINDS.items() if kind in counts]
    return filled(
        "credit.html.j2", ["theme", "tables"], title="Per-token credit", contents=contents, links=[],
        examples=examples, kinds=KINDS, drawn_of=drawn_of, table=table, everything=EVERYTHING, seed=seed, shade=_SHADE,
        notes=notes,
    )  # fmt: skip


def picture(shown: Sequence[tuple[str, Credited]], folder: Path, path: Path) -> None:
    """The first response of each kind as a PNG: its images, and the words beside them."""
    first = list(dict(reversed(shown)).items())[::-1]
    figure = Figure(figsize=(_WIDTH / _DPI, 1), dpi=_DPI, facecolor="white")
    room = _WIDTH - _IMAGE - 3 * _GAP
    blocks = [(found, *_laid_out(figure, kind, found, room)) for kind, found in first]
    heights = [max(_IMAGE, num * _LINE) + _GAP for *_, num in blocks]
    height = sum(heights) + 2 * _GAP
    figure.set_size_inches(_WIDTH / _DPI, height / _DPI)
    figure.text(_GAP / _WIDTH, 1 - 0.9 * _GAP / height, _LEGEND, fontsize=_SIZE - 1, color="0.4", parse_math=False)
    top = 1.5 * _GAP
    for (found, words, _), own in zip(blocks, heights, strict=True):
        axes = figure.add_axes((_GAP / _WIDTH, 1 - (top + _IMAGE) / height, _IMAGE / _WIDTH, _IMAGE / height))
        axes.imshow(side_by_side(found.question.files(folder)))
        axes.set_anchor("NW")
        axes.set_axis_off()
        for word, x, line, width in words:
            left, base = (_IMAGE + 2 * _GAP + x) / _WIDTH, 1 - (top + (line + 0.7) * _LINE) / height
            color = _BLUE if word.shade < 0 else _ORANGE
            ground = {"facecolor": (color, _SHADE * abs(word.shade)), "edgecolor": "none", "pad": 1.5}
            figure.text(left, base, word.text, fontsize=_SIZE, parse_math=False, bbox=ground)
            if word.wrong:
                right, under = left + width / _WIDTH, base - 0.2 * _LINE / height
                figure.add_artist(Line2D((left, right), (under, under), color="black", linewidth=1))
        top += own
    figure.savefig(path, metadata={"Software": None})


Placed = tuple[Word, float, int, float]  # a word, its place in pixels, its line, its width


def _laid_out(figure: Figure, kind: str, found: Credited, room: float) -> tuple[list[Placed], int]:
    """The question, what the response is, and its words, in lines of `room` pixels; and the number of lines."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    font = font_manager.FontProperties(size=_SIZE)
    space = 0.45 * _SIZE * _DPI / 72
    head = f"{question_text(found.question)}\nannotated: {found.question.answer}; this response is {KINDS[kind]}"
    words = [Word(w, 0.0, 0.0, not i, False) for line in head.splitlines() for i, w in enumerate(line.split())]
    first = len(words)
    placed, x, line = [], 0.0, 0
    for index, word in enumerate(words + words_of(found)):
        width = renderer.get_text_width_height_descent(word.text, font, ismath=False)[0]
        if index and (word.broken or index == first or x + width > room):
            x, line = 0.0, line + 1
        placed.append((word, x, line, width))
        x += width + space
    return placed, line + 1
