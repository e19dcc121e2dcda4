"""The tables' scripts: every command composes, no two jobs write the same artifact, every row can be filled."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
from copy import deepcopy
from functools import cache
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import pytest
from composing import check, composed, with_stage
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rationale.artifacts import keyed
from rationale.command.cli import CONF
from rationale.command.jobs import jobs_of
from rationale.command.runs import overrides_of
from rationale.reporting.figures import REWARDS
from rationale.reporting.specs import Report, Row
from rationale.reporting.standing import command
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
    return [
        with_stage(deepcopy(cfg), step.stage) if len(step) == 1 else composed(*chosen, *overrides_of(step))
        for step in cfg.steps
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
def report_of(name: str, scale: str = "mini") -> Report:
    return instantiate(composed(*jobs(name)[-1], f"scale={scale}").report, _convert_="all")


@cache
def evaluated_by(job: tuple[str, ...]) -> set[str]:
    return {cfg.stage.evaluation.name for cfg in steps(job) if "evaluate" in cfg.stage._target_}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_row_of_a_table_is_evaluated_by_its_script(name):
    evaluated = {found for job in jobs(name) for found in evaluated_by(job)}
    assert report_of(name).tables and report_of(name).named <= evaluated


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_paper_s_rows_that_stand_beside_ours_exist(name):
    for scale in ("mini", "paper"):
        for table in report_of(name, scale).tables.values():
            known = {row for row, _, _ in paper_cells(Path(table.paper))} if table.paper else set()
            assert {row.paper for row in table.rows} - {None} <= known


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


# Figure, script and report of every figure that a script copies from a report.
COPIED = [
    (ROOT / folder / f"{figure}.svg", name, report)
    for name in sorted(path.parent.name for path in ROOT.glob("*/run.sh"))
    for report, folder, figures in re.findall(
        r"^bash experiments/collect.sh (\S+) (\S+) \S+(.*)$", (ROOT / name / "run.sh").read_text(encoding="utf-8"), re.M
    )
    for figure in figures.split()
]
HERE = [copied for copied in COPIED if copied[0].is_file()]


def reported(name: str, report: str) -> Report:
    """A report that a script makes."""
    made = (cfg for job in jobs(name) for cfg in steps(job) if "tabulate" in cfg.stage._target_)
    (stage, *_) = (cfg.stage for cfg in made if Path(cfg.stage.out).name == report)
    return instantiate(stage.report, _convert_="all")


def trained_for(name: str, rows: list[Row]) -> dict[str, set[str]]:
    """By stage, the labels of the rows whose models a stage of the script trains."""
    every = [cfg.stage for job in jobs(name) for cfg in steps(job)]
    makers = {str(stage.out): stage._target_.split(".")[-2] for stage in every}
    models = {
        stage.evaluation.name: str(Path(stage.model.path).parent) for stage in every if "evaluate" in stage._target_
    }
    first: dict[str, tuple[str, str]] = {}
    for row in rows:
        first.setdefault(models[row.name], (makers.get(models[row.name], ""), row.label))
    return {stage: {label for maker, label in first.values() if maker == stage} for stage in ("sft", "dpo")}


def said_in(path: Path) -> set[str]:
    return {"".join(node.itertext()) for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")}


@pytest.mark.parametrize(("path", "name", "report"), HERE, ids=[str(path.relative_to(ROOT)) for path, *_ in HERE])
def test_a_figure_names_the_rows_of_its_table_and_no_others(path, name, report):
    settings, texts = reported(name, report), said_in(path)
    rows = settings.rows
    if path.stem in ("sft", "dpo"):
        plain = {"step", "train/loss", *REWARDS}
        assert {t for t in texts - plain if not re.fullmatch(r"[−\d.]+", t)} == trained_for(name, rows)[path.stem]
    elif path.stem == "overview":
        assert {row.name for row in rows if row.paper} == {row.name for row in rows if row.label in texts}
    elif path.stem in ("verifier", "responses"):
        found = {m[1] or m[2] for text in texts if (m := re.fullmatch(r"greedy (.*)|(.*), median [\d.]+", text))}
        labels = {name: {row.label for row in rows if row.name == name} for name in settings.compare}
        assert len(found) == len(labels) and all(found & known for known in labels.values())
    else:
        assert path.stem == "lengths"  # of no model


def test_every_figure_of_a_report_is_copied_by_a_script():
    others = {ROOT / "speed/speed.svg"}  # of `make bench`
    assert set(ROOT.rglob("*.svg")) - others == {path for path, *_ in HERE}


def test_no_two_figures_are_the_same():
    files = [path for suffix in ("svg", "png") for path in ROOT.rglob(f"*.{suffix}")]
    digests = [sha256(path.read_bytes()).hexdigest() for path in files]
    assert len(files) > 8 and len(set(digests)) == len(digests)


def evaluation_of(path: str, *more: str):
    return composed("stage=evaluate", "checkpoint=model", f"model.path={path}", *more).stage


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["Qwen/Qwen2-VL-2B-Instruct"], ["mine/Qwen2-VL-2B-Instruct"]),
        (["/a/runs/seed_1/sft_both/model"], ["/b/runs/seed_1/sft_both/model"]),
        (["runs/a/seed_1/dpo/model"], ["runs/a/seed_2/dpo/model"]),
        (["a b/c"], ["a-b/c"]),
        (["org/model"], ["org/model", "model.revision=v2"]),
    ],
)
def test_two_checkpoints_are_evaluated_as_two_artifacts(one, other):
    outs = [evaluation_of(*given).out for given in (one, other)]
    assert outs[0] != outs[1]
    assert evaluation_of(*one).out == outs[0]
    assert all(re.fullmatch(r"\w[\w.+-]*", Path(out).name) for out in outs)


def test_a_checkpoint_s_name_can_be_read_and_is_the_same_on_any_machine():
    assert evaluation_of("Qwen/Qwen2-VL-2B-Instruct").evaluation.name == "Qwen--Qwen2-VL-2B-Instruct"
    assert re.fullmatch(r"sft_both_[0-9a-f]{6}", evaluation_of("/a/sft_both/model").evaluation.name)
    assert composed("stage=evaluate", "checkpoint=model").stage.evaluation.name == "experiments--mini_base"


@pytest.mark.parametrize(
    "given", [["checkpoint=sft", "ablation=cot"], ["checkpoint=dpo", "evaluation.blind=true", "seed=2"]]
)
def test_the_command_that_mends_an_evaluation_makes_that_evaluation(given, tmp_path):
    stage = composed("stage=evaluate", f"root={tmp_path}/my runs", "evaluation.name=x", *given).stage
    arguments = OmegaConf.to_container(stage, resolve=True)
    folder = Path(arguments["out"])
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"stage": "evaluate", "arguments": arguments}), encoding="utf-8")
    again = OmegaConf.to_container(composed(*shlex.split(command(folder))[1:]).stage, resolve=True)
    assert keyed(again) == keyed(arguments)
