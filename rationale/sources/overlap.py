"""The same image however it is stored, and the same words: what two sets of questions have in common.

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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from rationale.hashes import sha256_file
from rationale.images import open_image
from rationale.schema import RowError

LEVELS = ("exact", "pixels", "perceptual")
SIDE, LOW = 32, 16  # the image as 32 x 32 grey values, of which the 16 x 16 lowest frequencies: 256 bits
_DCT = np.cos(np.pi * (2 * np.arange(SIDE)[None] + 1) * np.arange(LOW)[:, None] / (2 * SIDE))
_WORD = re.compile(r"\w+")


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
    """One thing on either side: a question with its image, or a lone image."""

    name: str
    image: Path | None
    question: str = ""
    split: str = ""


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
    here, there = by_content(ours), by_content(others)

    def found(one: str, other: str, kind: str, bits: int) -> Iterator[Match]:
        named = there[other]
        yield from (Match(i.name, i.split, kind, named[0].name, len(named), bits) for i in here[one])

    for one in here:
        if one in there:
            yield from found(one, one, "exact", 0)
    if level == "exact" or not (here and there):
        return
    files = {digest: named[0].image for digest, named in (here | there).items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves other threads free to run
        decoded = pool.map(_decoded, files.values())
        views = dict(zip(files, tqdm(decoded, total=len(files), desc="images", mininterval=2), strict=True))
    same = defaultdict(list)
    for other in there:
        same[views[other][0]].append(other)
    alike = {(one, other): 0 for one in here for other in same[views[one][0]] if one != other}
    for (one, other), bits in alike.items():
        yield from found(one, other, "pixels", bits)
    if level == "pixels":
        return
    first, second = list(here), list(there)
    hashes = [np.stack([views[digest][1] for digest in side]) for side in (first, second)]
    for i, j, bits in near(*hashes, distance):
        one, other = first[i], second[j]
        if one != other and (one, other) not in alike:
            yield from found(one, other, "perceptual", bits)


def by_content(side: list[Item]) -> dict[str, list[Item]]:
    """Items by the hash of their image's bytes; each file is read once."""
    known: dict[Path, str] = {}
    found: dict[str, list[Item]] = defaultdict(list)
    for item in side:
        if item.image is not None:
            if item.image not in known:
                if not item.image.is_file():
                    raise RowError(f"{item.name}: image {item.image} is not there; prepare its folder again")
                known[item.image] = sha256_file(item.image)
            found[known[item.image]].append(item)
    return found


def _decoded(path: Path) -> tuple[bytes, np.ndarray]:
    image = open_image(path)
    digest = hashlib.sha256(repr(image.size).encode())
    digest.update(image.tobytes())
    return digest.digest(), perceptual_hash(image)


def words_of(text: str) -> tuple[str, ...]:
    """Lower case without punctuation."""
    return tuple(_WORD.findall(text.lower()))


def text_matches(ours: list[Item], others: list[Item], n: int) -> Iterator[Match]:
    """Questions whose whole text is the same, and those with n words in a row in common."""
    whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
    grams: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, item in enumerate(others):
        words = words_of(item.question)
        if words:
            whole[words].append(index)
        for gram in {words[k : k + n] for k in range(len(words) - n + 1)}:
            grams[gram].append(index)
    for item in ours:
        words = words_of(item.question)
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
