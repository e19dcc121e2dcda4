"""Chat messages with their images, as OpenAI-compatible endpoints take them, and about how many tokens they have."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from rationale.images import open_image
from rationale.models.batch import Example
from rationale.settings import Count, settings

CHARACTERS_A_TOKEN = 4  # of English text, as a rule of thumb; the first reply replaces the estimate


@settings
class ImageEncoding:
    """How an image is sent: shrunk where its longest side is over `longest_side`, then encoded."""

    longest_side: Count
    format: Literal["JPEG", "PNG"]
    quality: Annotated[int, Field(ge=1, le=100)]  # of JPEG
    detail: Literal["auto", "low", "high"]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as sent; an image is never enlarged."""
        share = min(1.0, self.longest_side / max(width, height))
        return max(1, round(width * share)), max(1, round(height * share))

    def url(self, path: Path, where: str, blank: bool = False) -> str:
        """The image as a base64 data URL; `blank` sends a grey one of its size."""
        image = open_image(path, where)
        image = Image.new("RGB", image.size, (127, 127, 127)) if blank else image
        if image.size != (size := self.size(*image.size)):
            image = image.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, self.format, quality=self.quality)
        return f"data:image/{self.format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def messages(self, example: Example, system: str = "", blank: bool = False) -> list[dict[str, Any]]:
        """A system turn, where there is one, and a user turn: texts, and each image at its place."""

        def spelled(part: Path | str) -> dict[str, Any]:
            if isinstance(part, str):
                return {"type": "text", "text": part}
            return {"type": "image_url", "image_url": {"url": self.url(part, example.question_id, blank),
                                                       "detail": self.detail}}  # fmt: skip

        turns = [{"role": "user", "content": [spelled(part) for part in example.parts]}]
        return [{"role": "system", "content": system}, *turns] if system else turns

    def tokens(self, width: int, height: int) -> int:
        """What GPT-4o counts for an image: 85, and in high detail 170 for each tile of 512 pixels once it is fitted
        into 2048 x 2048 and its shorter side is at most 768 (platform.openai.com/docs/guides/images-vision)."""
        if self.detail == "low":
            return 85
        width, height = self.size(width, height)
        share = min(1.0, 2048 / max(width, height))
        share = min(share, 768 / min(width, height))
        return 85 + 170 * math.ceil(width * share / 512) * math.ceil(height * share / 512)

    def estimate(self, example: Example, system: str = "") -> float:
        """About how many tokens a request has."""
        images = (self.tokens(*open_image(path, example.question_id).size) for path in example.images)
        return len(system + example.prompt) / CHARACTERS_A_TOKEN + sum(images)
