"""What a report is asked for: its tables and their rows and columns, the claims, the verifier's votes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, Tag
from typing_extensions import TypedDict

from rationale.settings import Count, Positive

Prompt = Literal["direct", "cot", "mean", "best"]
_BOUND = ConfigDict(extra="forbid")


class Column(TypedDict):
    """The mean over `datasets`; `paper` is the column of the paper's CSV beside it."""

    __pydantic_config__ = _BOUND
    label: str
    datasets: list[str]
    paper: str | None


class Row(TypedDict):
    """An evaluation by its name; `paper` is the row of the paper's CSV beside it."""

    __pydantic_config__ = _BOUND
    label: str
    name: str
    paper: str | None


def _kind(row: Any) -> str:
    return "rows" if isinstance(row, list) else "row"


Rows = list[Annotated[Annotated[Row, Tag("row")] | Annotated[list[Row], Tag("rows")], Discriminator(_kind)]]


class TableSpec(TypedDict):
    """A table; `paper` is the CSV of the paper's cells. `columns` and `prompts` where they are not those of all tables.
    A row may be a list of rows."""

    __pydantic_config__ = _BOUND
    title: str
    caption: str
    paper: str | None
    rows: Rows
    columns: NotRequired[list[Column]]
    prompts: NotRequired[list[Prompt]]


class Claim(TypedDict):
    """`better` lies above `worse`, each an evaluation and a prompt, by more than `at_least` points over `datasets`, or
    those of the average; `paper` is the paper's difference."""

    __pydantic_config__ = _BOUND
    claim: str
    better: tuple[str, Prompt]
    worse: tuple[str, Prompt]
    at_least: float
    paper: float | None
    datasets: NotRequired[list[str]]


class VoteSpec(TypedDict):
    """How votes are weighted and drawn; `paper` is what they gain there over the majority, by method and data set."""

    __pydantic_config__ = _BOUND
    temperature: Positive
    num_subsets: Count
    paper: dict[Literal["weighted_vote", "best_of"], dict[str, float]]
