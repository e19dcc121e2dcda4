"""What a checkpoint says to one image and one question, directly and with its reasoning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath, UserError
from rationale.models.batch import Example
from rationale.models.vlm import VLM
from rationale.prompts import prompt_text
from rationale.schema import Question
from rationale.settings import Count, Style, typed


@typed
def run(
    model: Callable[..., VLM],
    generator: Callable[..., Any],
    image: InputPath | list[InputPath] | None,
    question: str | None,
    choices: list[str],
    styles: list[Style],
    max_new_tokens: dict[Style, Count],
) -> None:
    """Print the greedy answer in each style; `image` is one or a list, `choices` make it a multiple-choice question."""
    if image is None or question is None:
        raise UserError("stage=predict needs image=<file> and question='<text>'")
    files = tuple(Path(one).expanduser() for one in ([image] if isinstance(image, str) else image))
    if absent := [file for file in files if not file.is_file()]:
        raise UserError(f"image={absent[0]}: no such file")
    kind = "choice" if choices else "short"
    asked = Question("predict", "predict", "test", [], question, [*choices[:1], ""][:1], kind, choices=list(choices))
    answer = generator(model)
    for style in styles:
        example = Example("predict", files, prompt_text(asked, style), "")
        ((reply,),) = answer([example], max_new_tokens[style])
        end = "" if reply.finished else f" [cut at {reply.num_tokens} tokens]"
        print(f"{style}: {reply.text}{end}", flush=True)
