"""The tables' scripts: every command composes, no two jobs write the same artifact, every row can be filled."""

from __future__ import annotations

import csv
import importlib.util
import shlex
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from test_configs import check, composed, with_stage

from rationale.cli import CONF
from rationale.jobs import jobs_of
from rationale.reporting.tables import paper_cells

ROOT = CONF.parent / "experiments"
SCRIPTS = sorted(
    path.parent.name for path in ROOT.glob("*/run.sh") if "\nrationale " in path.read_text(encoding="utf-8")
)
PAPERS = sorted(path.parent.name for path in ROOT.glob("table_*/paper.csv"))


@cache
def jobs(name: str) -> list[tuple[str, ...]]:
    """The overrides of every job of a script, seed 1 of its sweeps."""
    found = []
    for line in (ROOT / name / "run.sh").read_text(encoding="utf-8").splitlines():
        if not line.startswith("rationale "):
            continue
        words = [w for w in shlex.split(line)[1:] if w not in ("-m", "$@")]
        words = ["seed=1" if w.startswith("seed=") else w for w in words]
        experiment = next(w for w in words if w.startswith("experiment="))
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("config", [experiment], return_hydra_config=True)
            given = OmegaConf.select(cfg, "hydra.sweeper.params") if "-m" in line.split() else None
            parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in (given or {}).items()] + words)
            found += [tuple(job) for job in jobs_of(parsed, exact=True)]
    return found


@cache
def steps(job: tuple[str, ...]) -> list:
    """The configs that a job runs."""
    cfg = composed(*job)
    if "_target_" in cfg.stage:
        return [cfg]
    chosen = [o for o in job if not o.startswith("stage=")]
    found = [str(step).split() for step in cfg.steps]
    return [
        with_stage(deepcopy(cfg), words[0].removeprefix("stage=")) if len(words) == 1 else composed(*chosen, *words)
        for words in found
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_job_of_a_script_composes_and_writes_its_own(name):
    writers: dict[str, dict] = {}
    for job in jobs(name):
        for cfg in steps(job):
            check(cfg)
            arguments = OmegaConf.to_container(cfg.stage, resolve=True)
            assert writers.setdefault(arguments["out"], arguments) == arguments, job


@cache
def report_of(name: str, scale: str = "mini") -> dict:
    return OmegaConf.to_container(composed(*jobs(name)[-1], f"scale={scale}").report, resolve=True)


@cache
def evaluated_by(job: tuple[str, ...]) -> set[str]:
    return {cfg.stage.name for cfg in steps(job) if "evaluate" in cfg.stage._target_}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_row_of_a_table_is_evaluated_by_its_script(name):
    evaluated = {found for job in jobs(name) for found in evaluated_by(job)}
    report = report_of(name)
    for table in filter(None, report["tables"].values()):
        rows = [row for part in table["rows"] for row in (part if isinstance(part, list) else [part])]
        assert {row["name"] for row in rows} <= evaluated
    for claim in report["orderings"]:
        assert {claim["better"][0], claim["worse"][0]} <= evaluated


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_paper_s_rows_that_stand_beside_ours_exist(name):
    for scale in ("mini", "paper"):
        for table in filter(None, report_of(name, scale)["tables"].values()):
            known = {row for row, _, _ in paper_cells(Path(table["paper"]))}
            rows = [row for part in table["rows"] for row in (part if isinstance(part, list) else [part])]
            assert {row["paper"] for row in rows} - {None} <= known


@pytest.mark.parametrize("name", [n for n in PAPERS if n in ("table_2", "table_3", "table_d1")])
def test_the_paper_s_averages_are_those_of_its_cells(name):
    """Within the rounding of the cells; a figure read wrongly would show."""
    with (ROOT / name / "paper.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cells = [float(v) for k, v in row.items() if k not in ("row", "prompt", "Avg")]
            assert float(row["Avg"]) == pytest.approx(sum(cells) / len(cells), abs=0.11), row


def test_the_page_of_claims_is_what_the_folders_say():
    spec = importlib.util.spec_from_file_location("claims", ROOT / "claims.py")
    spec.loader.exec_module(claims := importlib.util.module_from_spec(spec))
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split(claims.MARKS[0])[1].split(claims.MARKS[1])[0].strip()
    assert shown == claims.page(), "python experiments/claims.py writes it anew"
