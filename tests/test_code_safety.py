"""What comes from outside is data: no pickle of it is read, no code of it runs, no text of it becomes markup."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import hostile_pages
import pytest
import torch
from composing import composed
from fitting import sft
from PIL import Image

from rationale.artifacts import UserError
from rationale.command.runs import call
from rationale.models.vlm import load
from rationale.replies import Budget
from rationale.reporting.card import model_card
from rationale.reporting.figures import curve_figure, histogram_figure
from rationale.reporting.tables import Table, to_markdown
from rationale.schema import EvalRow, Question, Rationale, read_jsonl, write_jsonl
from rationale.stages.distill import report

SOURCE = Path(__file__).resolve().parent.parent
FILES = sorted(SOURCE.glob("rationale/**/*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "np.load", "numpy.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pd.read_pickle", "pandas.read_pickle",
    "instantiate", "hydra.utils.instantiate",
}  # fmt: skip
FALSE = ("trust_remote_code", "shell", "allow_pickle")  # keywords that may be given this value alone


def dangers(source: str) -> list[str]:
    """What of a source could run what others wrote."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in CALLS else []
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found += [f"{name}={given[name]}" for name in FALSE if given.get(name, "False") != "False"]
            if called.startswith("Auto") and called.endswith(".from_pretrained") and None not in given:
                found += [] if "trust_remote_code" in given else [f"{called} without trust_remote_code"]
            if not called.endswith(".save_checkpoint") and given.get("weights_only", "True") != "True":
                found.append(f"{called} weights_only={given['weights_only']}")
    return found


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from dill import loads", "torch.load(p, weights_only=True)", "yaml.load(text)", "eval(text)",
     "run(line, shell=True)", "np.load(p)", "read(p, allow_pickle=True)", "AutoModel.from_pretrained(p)",
     "Model.from_pretrained(p, trust_remote_code=given)", "run.fit(module, weights_only=False)"],
)  # fmt: skip
def test_the_search_below_finds(source):
    assert len(dangers(source)) == 1


def test_no_source_reads_a_pickle_runs_a_text_or_turns_remote_code_on():
    found = {str(path.relative_to(SOURCE)): dangers(path.read_text(encoding="utf-8")) for path in FILES}
    assert len(FILES) > 90
    # The one call that follows a `_target_` has its arguments from the composed config (`runs.call`).
    assert {path: what for path, what in found.items() if what} == {
        "rationale/command/runs.py": ["hydra.utils.instantiate"]
    }


class Runs:
    """Pickled, it creates a file where it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def ran(tmp_path) -> Path:
    """What exists once foreign code ran."""
    return tmp_path / "ran"


@pytest.fixture
def foreign(tiny_dir, ran) -> Path:
    """The tiny model with code of its own beside it, which every config names, and pickles that run code."""
    folder = shutil.copytree(tiny_dir, ran.with_name("foreign"))
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n", encoding="utf-8")
    kinds = {"AutoConfig": "own.C", "AutoModelForImageTextToText": "own.M", "AutoModel": "own.M",
             "AutoProcessor": "own.P", "AutoImageProcessor": "own.I", "AutoTokenizer": ["own.T", "own.T"]}  # fmt: skip
    for name in ("config", "processor_config", "preprocessor_config", "tokenizer_config"):
        path = folder / f"{name}.json"
        if path.is_file():
            path.write_text(
                json.dumps({**json.loads(path.read_text(encoding="utf-8")), "auto_map": kinds}), encoding="utf-8"
            )
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save({"weight": Runs(ran)}, folder / name)
    return folder


def test_the_pickle_of_these_tests_runs_where_it_is_read(ran):
    pickle.loads(pickle.dumps(Runs(ran)))
    assert ran.exists()


def test_code_and_pickles_beside_a_model_are_left_alone(foreign, ran):
    load(str(foreign))
    assert not ran.exists()


def test_a_model_that_needs_code_of_its_own_is_refused(foreign, ran):
    config = json.loads((foreign / "config.json").read_text(encoding="utf-8"))
    (foreign / "config.json").write_text(json.dumps({**config, "model_type": "own"}), encoding="utf-8")
    with pytest.raises(UserError, match=f"{foreign}: .*custom code"):
        load(str(foreign))
    assert not ran.exists()


def test_weights_as_a_pickle_are_refused_unread(foreign, ran):
    (foreign / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no file named model\.safetensors"):
        load(str(foreign))
    assert not ran.exists()


def test_a_training_state_that_holds_code_is_refused_unread(tiny, examples, ran):
    (ran.parent / "out/state").mkdir(parents=True)
    torch.save({"state_dict": Runs(ran)}, ran.parent / "out/state/step=00000001.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        sft(tiny, examples, ran.parent / "out")
    assert not ran.exists()


def test_calls_and_interpolations_in_rows_stay_data(tiny_dir, ran):
    """From a row of others to an evaluation, each stage called as the command calls it."""
    root, node = ran.parent, {"_target_": "os.system", "_args_": [f"touch {ran}"]}
    text = "${oc.env:HOME} ${repo:x} ${run_dir} {{7*7}}"
    (root / "data").mkdir()
    Image.new("RGB", (64, 64), "red").save(root / "data/red.png")
    row = {"question": text, "answer": "5", "image": "red.png", "rationale": f"{text}\n### Answer: 5", **node}
    lines = [json.dumps({**row, "id": split, "split": split}) for split in ("train", "test")]
    (root / "data/data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def ran_stage(stage: str, *overrides: str) -> Path:
        out = root / stage
        out.mkdir()
        call(composed(f"stage={stage}", "logger=csv", f"paths.questions={root}/prepare", *overrides).stage)[2](out)
        return out

    questions = ran_stage("prepare", "dataset=local", f"data_root={root}/data") / "questions.jsonl"
    asked = read_jsonl(questions, Question)
    assert [q.question for q in asked] == [text, text]
    write_jsonl(questions, [Question(**{**as_dict(q), "meta": {**q.meta, **node, "nested": [node]}}) for q in asked])
    told = read_jsonl(ran_stage("distill", "teacher=recorded") / "rows.jsonl", Rationale)
    assert [(reply.text, reply.status) for reply in told] == [(row["rationale"], "kept")]
    evaluated = ran_stage(
        "evaluate", "checkpoint=model", f"model.path={tiny_dir}", "evaluation.max_new_tokens={direct: 2, cot: 2}"
    )
    assert len(read_jsonl(evaluated / "rows.jsonl", EvalRow)) == 2
    assert not ran.exists()


def as_dict(question: Question) -> dict:
    return {name: getattr(question, name) for name in Question.__slots__}


HOSTILE = (
    "</p></script><script>1</script><img src=x onerror=1>\"'><svg onload=1>\u2028 $x_1^ & ](http://x) ![a](http://x) |"
)


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, and the addresses among those."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *(name for name, _ in attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]


@pytest.mark.parametrize("page", [hostile_pages.report, hostile_pages.credit])
def test_no_text_changes_the_tags_of_a_page(page, tmp_path, monkeypatch):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "image.png")
    made = []
    for text in ("harmless", HOSTILE):
        monkeypatch.setattr(hostile_pages, "EVIL", text)
        made.append(page(tmp_path).read_text(encoding="utf-8"))
    plain, hostile = map(Structure, made)
    assert "\u2028 $x_1^" in made[1] and "&lt;script&gt;" in made[1]
    assert hostile.tags == plain.tags and hostile.addresses == plain.addresses
    scripts = re.findall(r"<script.*?</script>", made[1], re.DOTALL)
    assert not any("\u2028" in script for script in scripts)


@pytest.mark.parametrize("draw", [
    lambda text: curve_figure("c", {text: {"a": [([1, 2], [1.0, 2.0])], text[-60:]: [([1, 2], [2.0, 1.0])]}}),
    lambda text: histogram_figure("h", {"a": {text[-60:]: [1, 2, 3]}}, text),
])  # fmt: skip
def test_a_text_in_a_figure_is_text(draw):
    plain, hostile = (list(ElementTree.fromstring(draw(text)).iter()) for text in ("harmless", HOSTILE))
    kinds = {node.tag.rpartition("}")[2] for node in hostile}
    assert kinds == {node.tag.rpartition("}")[2] for node in plain}
    assert any(node.text and "$x_1^ & ](http" in node.text for node in hostile)  # nor is it read as mathematics


def test_a_text_in_markdown_is_no_html_no_link_and_no_cell(tmp_path):
    name = HOSTILE.replace("/", "∕")  # of a folder
    scores = {"name": name, "cells": {f"cot/{name}": {"accuracy": 0.5, "questions": 2}}}
    question = Question(HOSTILE, HOSTILE, "train", ["x.png"], HOSTILE, ["5"])
    write_jsonl(tmp_path / "rows.jsonl", [Rationale(HOSTILE, HOSTILE, None, "unparsed", 0.0, "t", HOSTILE)])
    told = report(tmp_path / "rows.jsonl", {HOSTILE: question}, Counter({(HOSTILE, "unparsed"): 1}), Budget())
    texts = {
        "table": to_markdown(Table("t", HOSTILE, HOSTILE, [HOSTILE], [[HOSTILE], [HOSTILE + "\\"]])),
        "card": model_card("sft", {"out": f"/x/{name}"}, {}, None, [scores]).partition("## Recipe")[0],
        "report": "\n".join(line for line in "\n".join(told).split("\n") if not line.startswith("    ")),
    }
    for kind, text in texts.items():
        assert "&lt;script>" in text and "<" not in text, kind
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\]\(", text)) == (kind == "card"), kind  # the paper's address
    rows = [line for line in texts["table"].splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows] == [2] * 4
