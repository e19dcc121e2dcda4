"""A published checkpoint: its files, and a card that says what it is by the manifests of what made it."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from rationale.artifacts import UserError, produce
from rationale.hashes import fingerprint
from rationale.models.vlm import load
from rationale.reporting.card import model_card
from rationale.tools import publish


def made(stage, out, counts, inputs=(), **arguments):
    """An artifact whose work only writes what the test needs."""

    def work(folder):
        for name, write in inputs:
            write(folder / name)
        return counts

    return produce(stage, {"out": str(out), **arguments}, work)


@pytest.fixture
def run(tmp_path, tiny_dir):
    """Pairs, a model trained on them, and two evaluations: one of this model, one of another."""
    made(
        "pair",
        tmp_path / "pairs",
        {"pairs": 64800},
        [("pairs.jsonl", lambda p: p.write_text("{}\n", encoding="utf-8"))],
    )
    made(
        "dpo", tmp_path / "dpo", {"steps": 2025, "trainable": 7}, [("model", lambda p: shutil.copytree(tiny_dir, p))],
        model={"path": "llava-hf/some-model"}, pairs=str(tmp_path / "pairs"), objective={"beta": 0.1}, save_every=3,
    )  # fmt: skip
    other = tmp_path / "other" / "model"
    shutil.copytree(tiny_dir, other)
    (other / "config.json").write_text("{}", encoding="utf-8")
    for name, model, accuracy in (("ours", tmp_path / "dpo" / "model", 0.842), ("theirs", other, 0.111)):
        cells = {
            "cot/chartqa": {"accuracy": accuracy, "questions": 2500},
            "direct/chartqa": {"accuracy": 0.764, "questions": 2500},
        }
        summary = json.dumps({"name": name, "cells": cells})
        writes = [("summary.json", lambda p, text=summary: p.write_text(text, encoding="utf-8"))]
        made("evaluate", tmp_path / "eval" / name, {}, writes, model={"path": str(model)})
    return tmp_path


def published(run):
    (run / "out").mkdir()
    counts = publish.run(str(run / "dpo" / "model"), str(run / "eval" / "*"), run / "out")
    return counts, (run / "out" / "README.md").read_text(encoding="utf-8")


def test_a_published_folder_loads(run, tiny):
    published(run)
    assert load(str(run / "out")).model.state_dict().keys() == tiny.model.state_dict().keys()


def test_the_card_has_the_scores_of_these_weights_alone(run):
    counts, text = published(run)
    assert counts["evaluations"] == 1
    assert "| data set | ours, cot | ours, direct |" in text
    assert "| chartqa | 84.2 (2500) | 76.4 (2500) |" in text


def test_the_card_says_data_recipe_and_commit(run):
    _, text = published(run)
    manifest = json.loads((run / "dpo" / "manifest.json").read_text(encoding="utf-8"))
    assert f"| `{run / 'pairs'}` | pair | pairs 64800 |" in text
    assert yaml.safe_load(text.split("```")[1].removeprefix("yaml"))["objective"] == {"beta": 0.1}
    assert "save_every" not in text
    assert f"Commit {manifest['commit']}; python" in text


def test_the_card_s_head_is_what_the_hub_reads(run):
    head = yaml.safe_load(published(run)[1].split("---")[1])
    assert head["base_model"] == "llava-hf/some-model"
    assert head["pipeline_tag"] == "image-text-to-text"


def test_a_card_before_any_evaluation_says_so(run):
    text = model_card("dpo", {"out": str(run / "dpo"), "model": {"path": "a/b"}}, {"steps": 1})
    assert "Not evaluated when this card was written" in text


def test_a_card_does_not_change_what_an_artifact_is(run):
    before = fingerprint(run / "dpo" / "model")
    (run / "dpo" / "model" / "README.md").write_text("words", encoding="utf-8")
    assert fingerprint(run / "dpo" / "model") == before


def test_weights_without_a_manifest_are_refused(run):
    with pytest.raises(UserError, match="its parent folder has no manifest"):
        publish.run(str(run / "other" / "model"), "nothing*", run / "out")
