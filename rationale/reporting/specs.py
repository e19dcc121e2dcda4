"""What a report shows: its tables with their rows and columns, its claims, the verifier's votes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Tag

from rationale.reporting.standing import Stale, marked
from rationale.scoring.cells import SAMPLED, STYLES
from rationale.settings import Count, Limit, Positive, settings

Prompt = Literal[(*STYLES, "mean", "best", *SAMPLED)]


@settings
class Column:
    """The unweighted mean over `datasets`; `paper` is the column of the paper's CSV beside it."""

    label: str
    datasets: list[str]
    paper: str | None


@settings
class Row:
    """An evaluation by its name; `paper` is the row of the paper's CSV beside it."""

    label: str
    name: str
    paper: str | None


def _kind(row: Any) -> str:
    return "rows" if isinstance(row, list) else "row"


def flat(rows: list[Any]) -> list[Any]:
    """Rows, where one may be a list of rows."""
    return [row for part in rows for row in (part if isinstance(part, list) else [part])]


Rows = list[Annotated[Annotated[Row, Tag("row")] | Annotated[list[Row], Tag("rows")], Discriminator(_kind)]]


@settings
class TableSpec:
    """A table; `paper` is the CSV of the paper's cells. `columns` where they are not those of all tables. A row may be
    given as a list of rows."""

    title: str
    caption: str
    paper: str | None
    rows: Annotated[Rows, AfterValidator(flat)]
    columns: list[Column] | None = None
    prompts: tuple[Prompt, ...] = STYLES


@settings
class Claim:
    """`better` lies above `worse`, each an evaluation and a prompt, by more than `at_least` points over `datasets`, or
    those of the average; `paper` is the paper's difference. `says` is what opens the report: a sentence in which
    {difference}, with its interval, {better} and {worse} stand for points."""

    claim: str
    better: tuple[str, Prompt]
    worse: tuple[str, Prompt]
    at_least: float
    paper: float | None
    datasets: list[str] | None = None
    says: str | None = None


@settings
class VoteSpec:
    """How votes are weighted and drawn; `paper` is what they gain there over the majority, by method and data set."""

    temperature: Positive
    num_subsets: Count
    paper: dict[Literal["weighted_vote", "best_of"], dict[str, float]]


@settings
class Report:
    """A report. Its column Avg is over the data sets of `average`; `compare` names evaluations, before and after DPO,
    and samples of the first are the verifier's candidates.

    What was made from a model or data that are another now is refused by `stale`, or marked. `num_examples` questions
    can be leafed through; intervals are of `num_resamples`.
    """

    title: str
    average: list[str]
    columns: list[Column]
    tables: dict[str, TableSpec]
    orderings: list[Claim]
    verifier: VoteSpec
    compare: list[str]
    stale: Stale
    num_examples: Limit
    num_resamples: Count

    @property
    def rows(self) -> list[Row]:
        """The rows of all tables."""
        return [row for table in self.tables.values() for row in table.rows]

    @property
    def labels(self) -> dict[str, str]:
        """The label of each evaluation that a table has: of its first row."""
        labels: dict[str, str] = {}
        for row in self.rows:
            labels.setdefault(row.name, row.label)
        return labels

    @property
    def named(self) -> set[str]:
        """The evaluations that are shown."""
        claimed = {side[0] for claim in self.orderings for side in (claim.better, claim.worse)}
        return {row.name for row in self.rows}.union(self.compare, claimed)

    @property
    def prompts(self) -> set[str]:
        """Those of tables and claims."""
        claimed = {side[1] for claim in self.orderings for side in (claim.better, claim.worse)}
        return claimed.union(*(table.prompts for table in self.tables.values()))

    @property
    def main_column(self) -> str:
        """The label of the column of the average, or of the first."""
        return next((c.label for c in self.columns if c.datasets == self.average), self.columns[0].label)

    def marked(self, old: set[str]) -> Report:
        """The same, where the rows and claims about evaluations in `old` say that they are stale."""
        tables = {
            name: replace(table, rows=[replace(r, label=marked(r.label)) if r.name in old else r for r in table.rows])
            for name, table in self.tables.items()
        }
        claims = [replace(c, claim=marked(c.claim)) if {c.better[0], c.worse[0]} & old else c for c in self.orderings]
        return replace(self, tables=tables, orderings=claims)
