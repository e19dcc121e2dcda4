"""Rows that are trained on and also evaluated, found where questions are prepared; by choice taken out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rationale.artifacts import InputPath, UserError
from rationale.images import resolve
from rationale.schema import Question, read_jsonl, write_jsonl
from rationale.sources.overlap import LEVELS, Item, Match, image_matches, text_matches

ACTIONS = ("report", "drop")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


@dataclass(frozen=True, slots=True)
class Contamination:
    """Compares rows of `splits` (trained on or tuned on) with those of `held_out`, here and in other folders.

    `against` are folders of questions (their rows of `held_out`) or of images alone (all of them). `images` is one of
    LEVELS or None, `distance` the bits that a perceptual match may differ in, `ngram` the words of an n-gram or None.
    `report` writes what was found; `drop` also takes the matching rows of `splits` out.
    """

    against: list[InputPath]
    splits: list[str]
    held_out: list[str]
    images: str | None
    distance: int
    ngram: int | None
    action: str

    def __post_init__(self) -> None:
        if self.images is not None and self.images not in LEVELS:
            raise UserError(f"contamination.images: {self.images!r} is none of {[*LEVELS, None]}")
        if self.action not in ACTIONS:
            raise UserError(f"contamination.action: {self.action!r} is none of {list(ACTIONS)}")
        if self.ngram is not None and self.ngram < 1:
            raise UserError(f"contamination.ngram: {self.ngram} is no number of words; 8 to 13, or null for no text")
        if both := sorted(set(self.splits) & set(self.held_out)):
            raise UserError(f"contamination: {both} is both in splits and in held_out; it would match itself")

    def evaluated(self) -> list[Item]:
        """All of `against`; a folder that holds nothing to compare with is an error."""
        return [item for folder in self.against for item in self._of_folder(Path(folder).expanduser())]

    def _of_folder(self, folder: Path) -> list[Item]:
        if (folder / "questions.jsonl").is_file():
            rows = read_jsonl(folder / "questions.jsonl", Question)
            found = items([q for q in rows if q.split in self.held_out], folder, f"{folder}: ")
            if not found:
                raise UserError(
                    f"contamination.against: {folder} has no row of splits {self.held_out}; name its splits"
                )
            return found
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise UserError(f"contamination.against: {folder} has neither questions.jsonl nor an image")
        return [Item(str(path), path) for path in files]

    def matches(self, ours: list[Item], others: list[Item]) -> Iterator[Match]:
        """Everything that the two sides have in common."""
        if self.images:
            yield from image_matches(ours, others, self.images, self.distance)
        if self.ngram:
            yield from text_matches(ours, others, self.ngram)

    def apply(self, out: Path, evaluated: list[Item]) -> tuple[dict, list[Question]]:
        """Check `out/questions.jsonl` and write `contamination.jsonl`; counts, and the rows that were taken out.

        Those are written to `dropped.jsonl`, each with its reasons, and their images go where no other row needs them.
        """
        path = out / "questions.jsonl"
        questions = read_jsonl(path, Question)
        ours = items([q for q in questions if q.split in self.splits], out)
        if not ours:
            raise UserError(f"contamination.splits: no row of {self.splits} to check; name the splits trained on")
        others = evaluated + items([q for q in questions if q.split in self.held_out], out, "this artifact: ")
        if not others:
            raise UserError(f"contamination: no row of {self.held_out} here and nothing in against: nothing to check")
        found = list(self.matches(ours, others))
        write_jsonl(out / "contamination.jsonl", found)
        reasons = defaultdict(list)
        for match in found:
            reasons[match.question_id].append(f"{match.kind} ({match.distance}): {match.other}")
        dropped = [q for q in questions if q.question_id in reasons] if self.action == "drop" else []
        if dropped:
            self._drop(out, questions, dropped, reasons)
        kinds = Counter(match.kind for match in found)
        return {
            "checked": len(ours), "evaluated": len(others), "matches": dict(sorted(kinds.items())),
            "rows_matched": len(reasons), "dropped": len(dropped),
        }, dropped  # fmt: skip

    def _drop(self, out: Path, questions: list[Question], dropped: list[Question], reasons: dict) -> None:
        kept = [q for q in questions if q.question_id not in reasons]
        if not kept:
            raise UserError("contamination: every row matches what is evaluated; look at it with action=report")
        with (out / "dropped.jsonl").open("w", encoding="utf-8") as file:
            for question in dropped:
                line = {"reasons": reasons[question.question_id], "question": asdict(question)}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        write_jsonl(out / "questions.jsonl", kept)
        for image in {q.image for q in dropped} - {q.image for q in kept} - {""}:
            (out / image).unlink()


def items(questions: Iterable[Question], root: Path, prefix: str = "") -> list[Item]:
    """Questions of a folder as one side of the comparison."""
    return [
        Item(name, resolve(root, q.image, name) if q.image else None, q.question, q.split)
        for q, name in ((q, prefix + q.question_id) for q in questions)
    ]
