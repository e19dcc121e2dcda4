"""What answers prompts for the stages, and the default: a model of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Protocol

from rationale.models.batch import Example
from rationale.models.checks import check_rows, log_unfollowed
from rationale.models.encode import Encoder
from rationale.models.generate import Generated, Prompts, generate, read_prompts
from rationale.models.vlm import VLM


class Generator(Protocol):
    """What the stages need of a model of this process or of a served one.

    `at_once` is how many prompts a stage gives it in one call, None for the stage's own batch size. `is_shared` says
    that it stands outside the stage's processes: then one of them asks for all, at its limits and from its budget.
    """

    at_once: int | None
    is_shared: bool

    def check(self, examples: list[Example], max_new_tokens: Sequence[int]) -> None:
        """Refuse prompts that cannot be read, or not with so many tokens after them."""

    def read(self, examples: list[Example]) -> Any:
        """What a call takes as `read`: what can be done ahead, in another thread."""

    def __call__(self, examples: list[Example], *arguments: Any, **options: Any) -> list[list[Generated]]:
        """The responses to each prompt, as `models.generate.generate` gives them."""


def is_shared(generator: Callable[..., Generator]) -> bool:
    """Whether what makes a generator, a class or a partial of one, makes one outside the stage's processes."""
    return getattr(generator, "func", generator).is_shared


class Local:
    """The embedded default. Called as `generate` is, without its model."""

    at_once: int | None = None
    is_shared = False

    def __init__(self, model: Callable[..., VLM]):
        self.vlm = model()
        # A tokenizer keeps how it is to pad, and `read` runs in another thread than a call.
        self.reader = replace(self.vlm, processor=deepcopy(self.vlm.processor))
        log_unfollowed(self.vlm)

    def check(self, examples: list[Example], max_new_tokens: Sequence[int]) -> None:
        check_rows(self.vlm, Encoder(self.vlm.processor), examples, max_new_tokens)

    def read(self, examples: list[Example]) -> Prompts:
        return read_prompts(self.reader, examples)

    def __call__(self, examples: list[Example], *arguments: Any, **options: Any) -> list[list[Generated]]:
        return generate(self.vlm, examples, *arguments, **options)
