"""The report: one HTML page that holds its images, figures and code, and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rationale.hashes import read_manifest
from rationale.reporting.figures import Drawing
from rationale.reporting.load import own_name
from rationale.reporting.tables import PROMPTS, Table, interval_text, number
from rationale.schema import EvalRow, Pair, Question, Rationale
from rationale.scoring.cells import STYLES, Cell, Run
from rationale.scoring.judge import is_correct

T = TypeVar("T")
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}


def data_uri(path: Path) -> str:
    """An image file as a `data:` address."""
    kind = _TYPES.get(path.suffix.lower(), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def json_text(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, whatever the texts say."""
    text = json.dumps(value)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def examples(
    images: dict[str, tuple[Path, ...]],
    questions: dict[str, Question],
    rationales: dict[str, Rationale],
    pairs: list[Pair],
    runs: list[Run],
    *,
    compare: dict[str, str],
    num: int,
) -> list[dict[str, Any]]:
    """`num` questions to leaf through: pairs, what the second of `compare` fixes and breaks in CoT, and the rest.

    `images` are the files by question. The first seed speaks.
    """
    rows = _predictions(runs, compare)
    pairs = {pair.question_id: pair for pair in reversed(pairs)}  # a question's first
    kinds: dict[str, list[str]] = {"pair": sorted(pairs), "fixes": [], "breaks": [], "other": []}
    for question_id in sorted({question_id for _, _, question_id in rows}):
        kinds[_change(rows, list(compare), question_id)].append(question_id)
    return [
        {
            "kind": kind, "id": i, "dataset": questions[i].dataset, "split": questions[i].split,
            "images": [data_uri(image) for image in images[i]], "question": questions[i].question,
            "choices": questions[i].choices, "answer": questions[i].answer,
            "rationale": rationales[i].text if i in rationales else None,
            "chosen": pairs[i].chosen if i in pairs else None, "rejected": pairs[i].rejected if i in pairs else None,
            "predictions": [
                {"model": label, "prompt": PROMPTS[style], "text": row.text, "right": is_correct(row.score)}
                for label in compare for style in STYLES if (row := rows.get((label, style, i)))
            ],
        }
        for kind, i in equal_shares(kinds, num, "examples", lambda question_id: question_id)
    ]  # fmt: skip


def equal_shares(kinds: dict[str, list[T]], num: int, seed: str, once: Callable[[T], str]) -> list[tuple[str, T]]:
    """`num` of several kinds, in that order, drawn by seed in equal shares: what one kind lacks goes to the others.

    Of those for which `once` is the same, one is drawn.
    """
    drawn = {kind: Random(f"{seed}/{kind}").sample(found, len(found)) for kind, found in kinds.items()}
    chosen: dict[str, tuple[str, T]] = {}
    while len(chosen) < num and any(drawn.values()):
        for kind, found in drawn.items():
            while found and once(found[-1]) in chosen:
                found.pop()
            if found and len(chosen) < num:
                one = found.pop()
                chosen[once(one)] = kind, one
    return sorted(chosen.values(), key=lambda one: list(kinds).index(one[0]))


def _predictions(runs: list[Run], compare: dict[str, str]) -> dict[tuple[str, str, str], EvalRow]:
    """Rows by (label, style, question_id), of the first seed that most of the compared models share."""
    names = set(compare.values())
    have = {seed: {r.name for r in runs if r.seed == seed} & names for seed in {r.seed for r in runs}}
    seed = min(have, key=lambda s: (-len(have[s]), s))
    named = {label: r.rows for label, name in compare.items() for r in runs if (r.name, r.seed) == (name, seed)}
    return {(label, row.style, row.question_id): row for label, rows in named.items() for row in rows}


def _change(rows: dict[tuple[str, str, str], EvalRow], labels: list[str], question_id: str) -> str:
    found = [rows.get((label, "cot", question_id)) for label in labels]
    if len(found) < 2 or None in found[:2]:
        return "other"
    before, after = (is_correct(row.score) for row in found[:2])
    return "other" if before == after else "fixes" if after else "breaks"


Links = list[tuple[str, str]]
_PAGES = {"tabulate": "*/index.html", "credit": "seed_*/*/credit.html"}


def neighbours(out: Path) -> Links:
    """Titles of the other reports and credit pages of a run, and their places as seen from the report in `out`.

    What was made after this report is not among them until the report is made again.
    """
    run, own = out.parent, own_name(out)
    found: Links = []
    for stage, pattern in _PAGES.items():
        for page in sorted(run.glob(pattern)):
            place = page.parent.relative_to(run)
            made = place.parts[0] != own and not place.name.startswith(".") and read_manifest(page.parent)
            if made and made["stage"] == stage:
                title = re.search(r"<title>(.*?)</title>", page.read_text(encoding="utf-8"), re.DOTALL)[1]
                found.append((f"{html.unescape(title)} ({place})", quote(f"../{place}/{page.name}")))
    return found


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under one heading; tables are folded away below drawings of the same numbers."""

    id: str
    title: str
    drawings: list[Drawing]
    tables: list[Table]


def sections(tables: list[Table], drawings: list[Drawing], counts: list[Table]) -> list[Section]:
    """The parts of the page in their order; a part without content is left out."""

    def drawn(*names: str) -> list[Drawing]:
        return [drawing for drawing in drawings if drawing.name in names]

    found = [Section(t.name, t.title, drawn("verifier") if t.name == "verifier" else [], [t]) for t in tables]
    found += [
        Section("length", "Length", drawn("lengths", "responses"), []),
        Section("training", "Training", drawn("sft", "dpo"), []),
        Section("data", "Data", [], counts),
    ]
    return [section for section in found if section.drawings or section.tables]


def filled(template: str, scripts: Iterable[str], **values: Any) -> str:
    """A page from its template. Every text is escaped; figures and JSON come in as safe markup.

    Its policy names the digest of each of its own scripts, so a script in a text would not run even if it were not
    escaped.
    """
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    env.tests["cell"] = lambda value: isinstance(value, Cell)
    env.filters |= {"number": number, "interval": interval_text, "svg": lambda drawing: Markup(drawing.svg)}
    texts = {name: Markup(env.get_template(f"{name}.js.j2").render()) for name in scripts}
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts.values()]
    policy = Markup(" ".join(f"'sha256-{digest}'" for digest in digests))
    return env.get_template(template).render(scripts=texts, digests=policy, **values)


def render(
    *,
    title: str,
    results: list[str],
    facts: list[tuple[str, str]],
    missing: list[str],
    tables: list[Table],
    drawings: list[Drawing],
    counts: list[Table],
    shown: list[dict[str, Any]],
    links: Links = (),
) -> str:
    """The report, which `results` open; `links` lead to other pages of the run."""
    parts = sections(tables, drawings, counts)
    contents = [(part.id, part.title) for part in parts] + [("examples", "Examples")] * bool(shown)
    scripts = ["theme", "tables", *["examples"] * bool(shown)]
    return filled(
        "page.html.j2", scripts, title=title, results=results, facts=facts, missing=missing, sections=parts,
        contents=contents, links=links, shown=json_text(shown), num_shown=len(shown),
    )  # fmt: skip
