"""Rows that are trained on and also evaluated, found where questions are prepared; by choice taken out.

Images are compared in three ways, each of which includes those before it: `exact` (bytes of the file), `pixels`
(decoded, flattened on white, so a lossless copy in another format is found) and `perceptual` (a copy that was resized
or saved as JPEG). The perceptual hash is the DCT hash of pHash (Zauner, 2010) with the 16 x 16 lowest frequencies
instead of 8 x 8: charts look alike, and 64 bits do not tell them apart (conf/contamination has the figures).

Words are compared as for GPT-3 (Brown et al., 2020, appendix C): lower case without punctuation, an n-gram in common,
n from 8 (fewer collide by chance) to 13; a question of fewer than n words must be the same as a whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from rationale.artifacts import InputPath, UserError
from rationale.hashes import sha256_file
from rationale.images import open_image, resolve
from rationale.schema import Question, RowError, read_jsonl, write_jsonl
from rationale.sources.rowfiles import write_rows

LEVELS = ("exact", "pixels", "perceptual")
SIDE, LOW = 32, 16  # the image as 32 x 32 grey values, of which the 16 x 16 lowest frequencies: 256 bits
_DCT = np.cos(np.pi * (2 * np.arange(SIDE)[None] + 1) * np.arange(LOW)[:, None] / (2 * SIDE))


@dataclass(frozen=True, slots=True)
class Match:
    """A row of ours and what it has in common with the evaluated side.

    `other` is the first evaluated row or file that matches in this way, `others` how many do. `distance` is 0 for
    equal files, pixels and texts; the differing bits of 256 (perceptual); the words of our question that stand in no
    common n-gram (ngram). An image has a line for each evaluated image like it, a text one line.
    """

    question_id: str
    split: str
    kind: str  # exact | pixels | perceptual | text | ngram
    other: str
    others: int
    distance: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing on either side: a question with its images, or a lone image."""

    name: str
    images: tuple[Path, ...]
    question: str = ""
    split: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """Of the question, in lower case without punctuation."""
        return tuple(re.findall(r"\w+", self.question.lower()))


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """Which of the low frequencies of the grey image are above their median: 256 bits in 32 bytes.

    The first, the mean brightness, is left out. Rounding makes a blank image a hash of zeros, not of rounding errors.
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    low = (_DCT @ grey @ _DCT.T).round(3).ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return np.packbits(bits)


def near(ours: np.ndarray, others: np.ndarray, distance: int, block: int = 512) -> Iterator[tuple[int, int, int]]:
    """(index in ours, index in others, differing bits) of all pairs at most `distance` apart; (N, 32) and (M, 32)."""
    ours, others = ours.view(np.uint64), others.view(np.uint64)
    for start in range(0, len(ours), block):
        part = ours[start : start + block]
        bits = sum(np.bitwise_count(part[:, None, w] ^ others[None, :, w]).astype(np.uint16) for w in range(4))
        for i, j in zip(*np.nonzero(bits <= distance), strict=True):
            yield start + int(i), int(j), int(bits[i, j])


def image_matches(ours: list[Item], others: list[Item], level: str, distance: int) -> Iterator[Match]:
    """Pairs of images, each by the first way in which they match."""
    known: dict[Path, str] = {}
    here, there = by_content(ours, known), by_content(others, known)

    def found(one: str, other: str, kind: str, bits: int) -> Iterator[Match]:
        named = there[other]
        yield from (Match(i.name, i.split, kind, named[0].name, len(named), bits) for i in here[one])

    for one in here:
        if one in there:
            yield from found(one, one, "exact", 0)
    if level == "exact" or not (here and there):
        return
    files = {digest: path for path, digest in known.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves other threads free to run
        decoded = pool.map(_decoded, files.values())
        views = dict(zip(files, tqdm(decoded, total=len(files), desc="images", mininterval=2), strict=True))
    same = defaultdict(list)
    for other in there:
        same[views[other][0]].append(other)
    equal = {(one, other): None for one in here for other in same[views[one][0]] if one != other}
    for one, other in equal:
        yield from found(one, other, "pixels", 0)
    if level == "pixels":
        return
    first, second = list(here), list(there)
    hashes = [np.stack([views[digest][1] for digest in side]) for side in (first, second)]
    for i, j, bits in near(*hashes, distance):
        one, other = first[i], second[j]
        if one != other and (one, other) not in equal:
            yield from found(one, other, "perceptual", bits)


def by_content(side: list[Item], known: dict[Path, str]) -> dict[str, list[Item]]:
    """Items by the hashes of their images' bytes; each file is read once, and its hash is then `known`."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in side:
        for image in dict.fromkeys(item.images):
            if image not in known:
                if not image.is_file():
                    raise RowError(f"{item.name}: image {image} is not there; prepare its folder again")
                known[image] = sha256_file(image)
            found[known[image]].append(item)
    return found


def _decoded(path: Path) -> tuple[bytes, np.ndarray]:
    image = open_image(path)
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return digest.digest(), perceptual_hash(image)


def text_matches(ours: list[Item], others: list[Item], n: int) -> Iterator[Match]:
    """Questions whose whole text is the same, and those with n words in a row in common."""
    whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
    grams: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, item in enumerate(others):
        words = item.words
        if words:
            whole[words].append(index)
        for gram in {words[k : k + n] for k in range(len(words) - n + 1)}:
            grams[gram].append(index)
    for item in ours:
        words = item.words
        if same := whole.get(words):
            yield Match(item.name, item.split, "text", others[same[0]].name, len(same), 0)
        hits = [grams.get(words[k : k + n], ()) for k in range(len(words) - n + 1)]
        shared = Counter(index for found in hits for index in found)
        for index in same or ():
            del shared[index]
        if shared:
            most, _ = max(shared.items(), key=lambda entry: (entry[1], -entry[0]))
            inside = {k + i for k, found in enumerate(hits) if most in found for i in range(n)}
            yield Match(item.name, item.split, "ngram", others[most].name, len(shared), len(words) - len(inside))


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
        return [item for folder in self.against for item in self._of_folder(Path(folder))]

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
        return [Item(str(path), (path,)) for path in files]

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
        found = list(image_matches(ours, others, self.images, self.distance)) if self.images else []
        found += text_matches(ours, others, self.ngram) if self.ngram else []
        write_jsonl(out / "contamination.jsonl", found)
        reasons = defaultdict(list)
        for match in found:
            reasons[match.question_id].append(f"{match.kind} ({match.distance}): {match.other}")
        dropped = [q for q in questions if q.question_id in reasons] if self.action == "drop" else []
        if dropped:
            kept = [q for q in questions if q.question_id not in reasons]
            if not kept:
                raise UserError("contamination: every row matches what is evaluated; look at it with action=report")
            lines = ({"reasons": reasons[q.question_id], "question": asdict(q)} for q in dropped)
            write_rows(out / "dropped.jsonl", lines)
            write_jsonl(path, kept)
            for image in {i for q in dropped for i in q.images} - {i for q in kept for i in q.images}:
                (out / image).unlink()
        kinds = Counter(match.kind for match in found)
        return {
            "checked": len(ours), "evaluated": len(others), "matches": dict(sorted(kinds.items())),
            "rows_matched": len(reasons), "dropped": len(dropped),
        }, dropped  # fmt: skip


def items(questions: list[Question], root: Path, prefix: str = "") -> list[Item]:
    """Questions of a folder as one side of the comparison."""
    return [
        Item(name, tuple(resolve(root, image, name) for image in q.images), q.question, q.split)
        for q, name in ((q, prefix + q.question_id) for q in questions)
    ]
