"""Images are opened in one place: checked, flattened on white, RGB."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image, ImageOps

from rationale.schema import RowError

MAX_PIXELS = 64_000_000  # 8000 x 8000; an infographic of the benchmarks is at most about 40 million


def resolve(root: Path, relative: str, where: str) -> Path:
    """The image's path; refuses one that is absent or leaves its folder, by `..` or by a symbolic link."""
    try:
        path = (root / relative).resolve()
        present = path.is_file()
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # no text, a null byte, too long, a loop of links
        raise RowError(f"{where}: {relative!r:.80} is no path of an image ({error}); mend or remove the row") from error
    if not path.is_relative_to(root.resolve()):
        raise RowError(f"{where}: image path {relative!r} leaves its folder {root}; use a path below it")
    if not present:
        raise RowError(f"{where}: image {relative!r} is not in {root}; add the file or remove the row")
    return path


def open_image(path: Path, where: str = "") -> Image.Image:
    """RGB pixels as a person sees them: EXIF rotation applied, transparency flattened on white, first frame."""
    where = where or str(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise RowError(
                    f"{where}: {path} has {width} x {height} pixels, over {MAX_PIXELS}; shrink it or remove the row"
                )
            if min(width, height) < 1:
                raise RowError(f"{where}: {path} has no pixels; replace the file or remove the row")
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255, not scale
                upright = upright.convert("I").point(lambda value: value * (1 / 257)).convert("L")
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                layer = upright.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, RowError):
            raise
        raise RowError(
            f"{where}: {path} is not a readable image ({error}); replace the file or remove the row"
        ) from error


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
