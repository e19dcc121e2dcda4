"""Images are opened in one place: checked, flattened on white, RGB."""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from rationale.schema import RowError

MAX_PIXELS = 64_000_000  # 8000 x 8000; an infographic of the benchmarks is at most about 40 million
# What transformers' Qwen2-VL takes (`smart_resize`). CLIP's processor brings the shorter side to 336 before it crops:
# of a picture of 20,000 x 1 it would make one of 2 billion pixels.
MAX_RATIO = 200
BITS_PER_SAMPLE = 258  # a tag of TIFF
FOREIGN = ("EPS", "WMF")  # Pillow has other programs draw them


def resolve(root: Path, relative: str, where: str) -> Path:
    """The image's path; refuses one that is absent or leaves its folder, by `..` or by a symbolic link.

    Where no file has the name as it stands, one with `/` for a backslash and accents composed or apart is taken: rows
    and folders of other systems write them so.
    """
    if not isinstance(relative, str):
        raise RowError(f"{where}: {relative!r:.80} is no path of an image but {type(relative).__name__}; mend the row")
    others = (unicodedata.normalize(form, relative.replace("\\", "/")) for form in ("NFC", "NFD"))
    try:
        path = (root / relative).resolve()
        there = filter(_is_file, (path, *((root / name).resolve() for name in others)))
        path, present = next(((one, True) for one in there), (path, False))
    except (ValueError, OSError, RuntimeError) as error:  # a null byte, too long, a loop of links
        raise RowError(f"{where}: {relative!r:.80} is no path of an image ({error}); mend or remove the row") from error
    if not path.is_relative_to(root.resolve()):
        raise RowError(
            f"{where}: image path {relative!r:.300} leaves its folder {root}; use a path below it, or name the folder "
            "that holds the images (dataset.images, exchange.images)"
        )
    if not present:
        raise RowError(f"{where}: image {relative!r:.300} is not in {root}; add the file or remove the row")
    return path


def _is_file(path: Path) -> bool:
    """Whether a file is there; OSError at a loop of links, to which `is_file` answers False from Python 3.13 on."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def open_image(path: Path, where: str = "") -> Image.Image:
    """RGB pixels as a person sees them: EXIF rotation applied, transparency flattened on white, first frame."""
    where = where or str(path)
    try:
        with Image.open(path) as image:
            check_shape(image, f"{where}: {path}")
            image.load()
            return as_seen(ImageOps.exif_transpose(image), white_of(image))
    except RowError:
        raise
    except Exception as error:  # each of Pillow's decoders raises its own
        said = f"{where}: {path} is not a readable image ({error}); replace the file or remove the row"
        raise RowError(said) from error


def side_by_side(paths: Sequence[Path]) -> Image.Image:
    """One picture of several, in order from left to right, where one is all that can be shown."""
    images = [open_image(path) for path in paths]
    joined = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    for place, image in enumerate(images):
        joined.paste(image, (sum(i.width for i in images[:place]), 0))
    return joined


def check_shape(image: Image.Image, what: str) -> None:
    """Refuse by what the file's head says, before any pixel is decoded."""
    width, height = image.size
    if image.format in FOREIGN:
        raise RowError(f"{what} is drawn by another program ({image.format}); replace the file or remove the row")
    if width * height > MAX_PIXELS:
        raise RowError(f"{what} has {width} x {height} pixels, over {MAX_PIXELS}; shrink it or remove the row")
    if min(width, height) < 1:
        raise RowError(f"{what} has no pixels; replace the file or remove the row")
    if max(width, height) > MAX_RATIO * min(width, height):
        shape = f"{width} x {height} pixels, one side over {MAX_RATIO} times the other"
        raise RowError(f"{what} has {shape}; cut it or remove the row")


def white_of(image: Image.Image) -> int | None:
    """The value that is white in a file of more than 8 bits a pixel; None where nothing says it."""
    if image.format == "TIFF":
        return 2 ** image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] - 1 if image.mode.startswith("I;16") else None
    return 65535 if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else None


def as_seen(upright: Image.Image, white: int | None = None) -> Image.Image:
    """RGB of whatever the file's pixels are; ValueError where their values have no one meaning."""
    if upright.mode == "F":
        raise ValueError("floating-point pixels, which do not say what is white")
    if upright.mode.startswith("I"):  # more than 8 bits a pixel, which Pillow would clip at 255, not scale
        if white is None:
            raise ValueError("pixels of 32 bits, which do not say what is white")
        upright = upright.convert("I").point(lambda value: value * (255 / white)).convert("L")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB")


def content_name(data: bytes, suffix: str) -> str:
    """File name of an image: the hash of its bytes, so the same picture is stored once."""
    return f"{hashlib.sha256(data).hexdigest()[:20]}{suffix}"


def store(data: bytes, suffix: str, folder: Path) -> str:
    """Write an image's bytes under their content's name, whole or not at all; returns the name."""
    path = folder / content_name(data, suffix)
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_bytes(data)
        os.replace(partial, path)
    return path.name
