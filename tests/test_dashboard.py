"""What wandb is told, read back from its offline files: runs by name and group, numbers by name, rows with images."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import wandb
from commands import SMALL, command
from offline import Offline, runs

from rationale.artifacts import produce
from rationale.models.local import Local
from rationale.models.vlm import load
from rationale.schema import EvalRow, Question, read_jsonl
from rationale.stages import evaluate
from rationale.training.dashboard import finish, hidden, known_by, short, tags
from rationale.training.loggers import loggers

CONFIG = {
    "seed": 2, "checkpoint": "dpo", "ablation": "cot", "train_set": "chartqa", "variant": "beta_0.05",
    "model": {"path": "m"}, "pretrain": {"lr": 1}, "sft": {"lr": 2}, "sampling": {"limit": 3}, "pairing": {"low": 4},
    "dpo": {"beta": 0.05}, "evaluation": {"split": "test"}, "generator": {"key_variable": "ENDPOINT"},
    "trainer": {"devices": 1},
}  # fmt: skip
TABLE_ROWS = 5


def test_a_run_is_named_by_its_artifacts_path_below_the_runs_folder():
    assert short("runs/mini/seed_1/eval/dpo_beta_0.05", "runs/mini") == "seed_1/eval/dpo_beta_0.05"
    assert short("/elsewhere/sft", "runs/mini") == "/elsewhere/sft"


@pytest.mark.parametrize(
    ("job", "checkpoint", "expected"),
    [
        ("pretrain", "sft", {"pretrain", "trainer"}),
        ("sft", "sft", {"ablation", "train_set", "sft", "trainer"}),
        ("dpo", "sft", {"ablation", "train_set", "sft", "sampling", "pairing", "dpo", "variant", "trainer"}),
        ("evaluate", "model", {"checkpoint", "evaluation", "generator"}),
        ("evaluate", "sft", {"ablation", "train_set", "sft", "checkpoint", "evaluation", "generator"}),
    ],
)
def test_a_run_is_known_by_what_it_hangs_on(job, checkpoint, expected):
    assert known_by(job, {**CONFIG, "checkpoint": checkpoint}).keys() == expected | {"seed", "model"}


def test_tags_tell_the_weights_the_ablation_the_variant_and_the_seed():
    assert tags(known_by("evaluate", CONFIG)) == ["dpo", "cot", "beta_0.05", "seed_2"]
    assert tags(known_by("sft", CONFIG)) == ["cot", "seed_2"]  # no variant changes SFT


def test_nothing_secret_is_shown(monkeypatch):
    monkeypatch.setenv("ENDPOINT", "a-key-under-any-name")
    monkeypatch.setenv("HUB_TOKEN", "tokens-are-secret")
    monkeypatch.setenv("SHORT_KEY", "1")
    node = {
        "generator": {"key_variable": "ENDPOINT", "options": {"user": "a-key-under-any-name", "api_key": "typed here"}},
        "paths": ["x/tokens-are-secret", "https://me:word@host/v1"],
        "max_new_tokens": 1, "key": "of the call 1",
    }  # fmt: skip
    assert hidden(node) == {
        "generator": {"key_variable": "ENDPOINT", "options": {"user": "(hidden)", "api_key": "(hidden)"}},
        "paths": ["x/(hidden)", "https://host/v1"],
        "max_new_tokens": 1, "key": "of the call 1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(questions_dir, tiny_dir, tmp_path_factory):
    """A call of stage evaluate as the command makes it, and its folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    node = {"artifacts": "manifest", "mode": "offline"}
    out = folder / "seed_2/eval/dpo"
    arguments = {"questions": str(questions_dir), "out": str(out), "logger": node, "options": {"api_key": "sk-typed"}}

    def work(working: Path) -> dict:
        logger = partial(
            loggers, project="rationale", group="mini", name=str(out), folder=str(folder),
            stage="rationale.stages.evaluate.run", config=CONFIG, table_rows=TABLE_ROWS, **node,
        )  # fmt: skip
        return evaluate.run(
            str(questions_dir), partial(load, str(tiny_dir)), Local,
            evaluate.Evaluation("dpo", "test", ["direct", "cot"], {"direct": 2, "cot": 4}, batch_size=50), 2,
            out=working, logger=logger,
        )  # fmt: skip

    def made() -> Path:
        produce("evaluate", arguments, work)
        finish(out)
        return folder

    return made


@pytest.fixture(scope="module")
def evaluated(evaluation) -> Offline:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENDPOINT", "sk-in-the-environment")
        (run,) = runs(evaluation()).values()
    return run


def test_an_evaluation_is_a_finished_run_of_its_own(evaluated):
    assert wandb.run is None
    assert (evaluated.name, evaluated.group, evaluated.job_type) == ("seed_2/eval/dpo", "mini", "evaluate")
    assert evaluated.exit_code == 0
    assert evaluated.config["dpo"] == {"beta": 0.05}


def test_accuracy_and_lengths_are_there_by_name(evaluated, evaluation):
    out = evaluation() / evaluated.name
    rows = read_jsonl(out / "rows.jsonl", EvalRow)
    cells = json.loads((out / "summary.json").read_text(encoding="utf-8"))["cells"]
    assert {style for style, _, _ in (cell.partition("/") for cell in cells)} == {"direct", "cot"}
    for cell, values in cells.items():
        assert evaluated.summary[f"eval/{cell}"] == pytest.approx(100 * values["accuracy"])
        assert evaluated.summary[f"tokens/{cell}"] == pytest.approx(values["tokens"])
    for style in ("direct", "cot"):
        drawn = evaluated.summary[f"response_tokens/{style}"]
        lengths = [row.num_tokens for row in rows if row.style == style]
        assert sum(drawn["values"]) == len(lengths)
        assert drawn["bins"][0] <= min(lengths) <= max(lengths) <= drawn["bins"][-1]


def test_the_table_shows_the_first_rows_with_their_images(evaluated, evaluation, questions_dir):
    rows = read_jsonl(evaluation() / evaluated.name / "rows.jsonl", EvalRow)[:TABLE_ROWS]
    asked = {q.question_id: q for q in read_jsonl(questions_dir / "questions.jsonl", Question)}
    shown = evaluated.table("predictions")
    assert [(s["question_id"], s["style"], s["prediction"], s["score"], s["response"]) for s in shown] == [
        (r.question_id, r.style, r.predicted, r.score, r.text) for r in rows
    ]
    assert [(s["question"], s["answer"]) for s in shown] == [
        (asked[r.question_id].question, asked[r.question_id].answer) for r in rows
    ]
    for row, told in zip(rows, shown, strict=True):
        waiting = evaluated.stored_of_table("predictions", told["image"]["path"])
        assert waiting.is_relative_to(evaluated.folder.parent)  # not below the user's home: it syncs from another day
        assert waiting.read_bytes() == row.files(questions_dir)[0].read_bytes()


def test_the_manifest_is_an_artifact_that_refers_to_the_files(evaluated, evaluation):
    out = evaluation() / evaluated.name
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    kept = evaluated.artifacts["seed_2.eval.dpo"]
    assert kept.keys() == {
        "manifest.json",
        "config.json",
        "files/manifest.json",
        "files/rows.jsonl",
        "files/summary.json",
    }
    assert kept["files/rows.jsonl"].ref == (out / "rows.jsonl").as_uri()
    assert (
        json.loads(evaluated.stored("seed_2.eval.dpo", "manifest.json").read_text(encoding="utf-8"))["key"]
        == manifest["key"]
    )
    counts = {name: evaluated.summary[f"counts/{name}"] for name in manifest["counts"]}
    assert counts == manifest["counts"]


def test_no_key_is_in_what_waits_to_be_uploaded(evaluated):
    waiting = [path for path in evaluated.folder.parent.rglob("*") if path.is_file()]
    texts = [path.read_bytes() for path in waiting]
    assert any(b"(hidden)" in text for text in texts)
    assert not any(key in text for text in texts for key in (b"sk-in-the-environment", b"sk-typed"))


def test_an_evaluation_that_is_up_to_date_logs_nothing_again(evaluated, evaluation):
    assert runs(evaluation()).keys() == {evaluated.name}


@pytest.fixture(scope="module")
def swept(small_run, tmp_path_factory) -> dict[str, Offline]:
    """The runs of `rationale -m` over 2 x 2 of beta and seed."""
    folder = tmp_path_factory.mktemp("swept")
    made = small_run / "runs/mini_small"
    inputs = {"questions": "questions", "pairs": "seed_1/pairs", "sft": "seed_1/sft_both"}
    shared = [f"paths.{path}={made}/{place}" for path, place in inputs.items()]
    small = [word for word in SMALL if not word.startswith("logger=")]
    varied = ["dpo.objective.beta=0.05,0.5", "seed=1,2", "variant='beta_${dpo.objective.beta}'"]
    sweep = ["stage=dpo", *varied, "-m"]
    done = subprocess.run(
        command(folder, *small, *shared, *sweep),
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return runs(folder / "runs/mini_small")


@pytest.mark.slow
def test_a_sweep_reads_by_name_group_and_what_it_varied(swept):
    varied = {name: (run.config["dpo"]["objective"]["beta"], run.config["seed"]) for name, run in swept.items()}
    assert varied == {f"seed_{seed}/dpo_beta_{beta}": (beta, seed) for seed in (1, 2) for beta in (0.05, 0.5)}
    for run in swept.values():
        assert (run.group, run.job_type, run.exit_code) == ("mini_small", "dpo", 0)
        assert run.tags == ["both", f"beta_{run.config['dpo']['objective']['beta']}", f"seed_{run.config['seed']}"]


@pytest.mark.slow
def test_each_run_of_a_sweep_holds_its_metrics_by_name(swept):
    for name, run in swept.items():
        for metric in ("train/loss", "rewards/margins", "rewards/accuracies", "logps/chosen"):
            steps = [step for step, _ in run.values(metric)]
            assert steps and steps == sorted(set(steps)), (name, metric)


@pytest.mark.slow
def test_each_run_of_a_sweep_ends_with_its_manifest(swept):
    for name, run in swept.items():
        manifest = json.loads(run.stored(name.replace("/", "."), "manifest.json").read_text(encoding="utf-8"))
        assert manifest["arguments"]["settings"]["objective"]["beta"] == run.config["dpo"]["objective"]["beta"]
        assert run.summary["counts/pairs"] == manifest["counts"]["pairs"] > 0
        assert "files/model/model.safetensors" in run.artifacts[name.replace("/", ".")]
