"""A report and a credit page with each part that a page can have, their texts from hell."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from rationale.reporting import credit_page
from rationale.reporting.credit import Credited
from rationale.reporting.figures import Drawing
from rationale.reporting.page import data_uri, render
from rationale.reporting.tables import Table
from rationale.schema import Question, Response
from rationale.scoring.cells import Cell
from rationale.scoring.intervals import Interval

EVIL = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
TEXTS = ["9.5 [8.0, 11.0]", "79.6 [74.2, 84.6]", "−3.5 [−4.0, −3.0]", "–", "10.0", "−12.0", "0.0", "> 70"]
MEANS = [3.0, 40.0, None, -2.5, 100.0, 5.0, 6.0, 7.0]


def report(folder: Path) -> Path:
    """A report with each part that a page can have, its texts from hell."""
    Image.new("RGB", (4, 4), "red").save(folder / "image.png")
    spans = [None if m is None else Interval(m, m - 1, m + 1, 9, 3) for m in MEANS]
    cells = [Cell(span, {}, paper=50.0 - i) for i, span in enumerate(spans)]
    names = [f"model {10 - i} {EVIL}" for i in range(8)]
    rows = [list(row) for row in zip(names, TEXTS, cells, ["holds", "fails", "open", "not run"] * 2, strict=True)]
    scores = Table("scores", f"Scores {EVIL}", EVIL, ["model", "text", "cell", "verdict"], rows)
    small = Table("pairs", "Pairs", "a caption", ["seed", "pairs"], [["1", "30"], ["2", "4"]])
    drawing = '<svg viewBox="0 0 90 20"><text y="15" style="fill: currentColor">drawn</text></svg>'
    shown = [
        {
            "kind": kind, "id": f"q{i}", "dataset": "d", "split": "test", "images": [data_uri(folder / "image.png")],
            "question": f"How many {i}? {EVIL}", "choices": [EVIL], "answer": "5", "rationale": EVIL, "chosen": EVIL,
            "rejected": "no",
            "predictions": [{"model": m, "prompt": "CoT", "text": EVIL, "right": m == "DPO"} for m in ("SFT", "DPO")],
        }
        for i, kind in enumerate(["pair", "pair", "fixes", "other"])
    ]  # fmt: skip
    page = folder / "report.html"
    text = render(
        results=[EVIL],
        title=f"A report {EVIL}", facts=[("seeds", EVIL)], missing=[EVIL], tables=[scores], counts=[small], shown=shown,
        drawings=[Drawing("sft", "SFT loss", EVIL, drawing)], links=[(f"another {EVIL}", "../other/index.html")],
    )  # fmt: skip
    page.write_text(text, encoding="utf-8")
    return page


def credit(folder: Path) -> Path:
    """A credit page: one response whose words have the largest credit of either sign, and none."""
    question = Question("q", "d", "test", ["image.png"], f"How many? {EVIL}", ["5"])
    response = Response("q", 0, "cot", "blue orange none\n<script>window.ran=1</script>", "6", 0.0, True)
    spans = [(0, 4), (5, 11), (12, 16), (17, 49)]
    found = Credited(question, response, [-3.0, 3.0, 0.0, 1.0, -1.0], spans, [0, 1, 2, 3, 4], [0, 0, 0, 1, 1], 0)
    table = Table("credit", "Credit", EVIL, ["data", "quantity", "here"], [["all", "share", "87.2 [85.5, 88.7] n=2"]])
    page = folder / "credit.html"
    page.write_text(credit_page.page([("found", found)], {"found": 1}, table, folder, 1), encoding="utf-8")
    return page
