"""The model card of a checkpoint: its data, recipe, scores and commit, from the manifests of what made it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rationale.artifacts import find_inputs
from rationale.hashes import read_manifest
from rationale.markdown import in_markdown, table
from rationale.provenance import git_commit, versions

PAPER = "[Improve Vision Language Model Chain-of-thought Reasoning](https://arxiv.org/abs/2410.16198)"
METHODS = {
    "pretrain": "pre-training from random weights",
    "sft": "supervised fine-tuning on rationales and direct answers",
    "dpo": "direct preference optimisation on pairs of right and wrong responses",
    "grpo": "group relative policy optimisation on its own responses, rewarded where they are right",
}
# Of a stage's arguments: where things lie, and how rather than what it trains.
NOT_RECIPE = {"out", "logger", "trainer", "_target_", "_partial_", "save_every", "keep_last"}


def model_card(
    stage: str,
    arguments: dict[str, Any],
    counts: dict[str, Any],
    made_with: dict[str, Any] | None = None,
    evaluations: Iterable[dict[str, Any]] = (),
) -> str:
    """Markdown with the hub's YAML head. `arguments` are the training stage's, resolved; `made_with` its manifest where
    there is one already; `evaluations` are `summary.json` of evaluations of these very weights."""
    base = (arguments.get("model") or arguments.get("start") or {}).get("path", "random weights")
    head = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": ["rationale", stage]}
    if not Path(base).exists() and base.count("/") == 1:
        head["base_model"] = base
    made = made_with or {"commit": git_commit(), "versions": versions()}
    used = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "",
        f"# {in_markdown(Path(arguments['out']).name)}", "",
        f"Made from `{base}` by {METHODS.get(stage, stage)}, after {PAPER}.", "", "## Data", "",
        *table(["artifact", "made by", "rows"], _sources(arguments), rule="---"), "", "## Scores", "",
        *_scores(list(evaluations)), "## Recipe", "", "```yaml", yaml.safe_dump(_recipe(arguments)).strip(), "```", "",
        "## Training", "", *(f"- {name}: {value}" for name, value in counts.items()), "",
        f"Commit {made['commit']}; {used}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _sources(arguments: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """A row for each artifact among the arguments: its counts, as its own stage gave them."""
    for path in find_inputs(arguments, digest=str):  # which they are; nothing is read
        manifest = read_manifest(Path(path)) or read_manifest(Path(path).parent)
        if manifest is not None:
            shown = ", ".join(f"{k} {v}" for k, v in manifest["counts"].items() if not isinstance(v, (dict, list)))
            yield f"`{path}`", manifest["stage"], shown


def _scores(evaluations: list[dict[str, Any]]) -> Iterator[str]:
    """Accuracy in percent by data set, a column for each style of each evaluation."""
    if not evaluations:
        yield from ("Not evaluated when this card was written; `rationale stage=publish` writes one with scores.", "")
        return
    columns: dict[str, dict[str, str]] = {}
    for found in evaluations:
        for cell, values in found["cells"].items():
            style, _, dataset = cell.partition("/")
            text = f"{100 * values['accuracy']:.1f} ({values['questions']})"
            columns.setdefault(f"{found['name']}, {style}", {})[dataset] = text
    sets = sorted({dataset for column in columns.values() for dataset in column})
    rows = ([in_markdown(dataset), *(column.get(dataset, "") for column in columns.values())] for dataset in sets)
    yield from table(["data set", *map(in_markdown, columns)], rows, rule="---")
    yield from ("", "Accuracy in percent (questions), greedy decoding.", "")


def _recipe(node: Any) -> Any:
    """Numbers and choices without paths, loggers and calls."""
    if isinstance(node, dict):
        return {k: _recipe(v) for k, v in node.items() if k not in NOT_RECIPE and not _is_path(v)}
    return [_recipe(v) for v in node] if isinstance(node, list) else node


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).exists()
