"""The configs of public data sets: each loads a copy of its columns, and real rows where there are some."""

import io
import json
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import datasets
import public_rows
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf
from PIL import Image

from rationale.command.cli import CONF
from rationale.images import content_name
from rationale.question_checks import check
from rationale.schema import Question, RowError, read_jsonl
from rationale.scoring.judge import SCORERS, judge
from rationale.sources import public_datasets
from rationale.sources.public import PublicDataset, PublicDatasets, folder
from rationale.sources.public_datasets import REASONS
from rationale.stages import prepare

REAL = Path(os.environ.get("RATIONALE_REAL_DATA", "absent"))
SETS = sorted(p.stem for p in (CONF / "dataset").glob("*.yaml") if not p.stem.startswith(("mini", "paper")))


def red_image():
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(buffer, "PNG")
    return buffer.getvalue()


RED = red_image()


@cache
def composed(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("config", [f"dataset={name}", "++data_root=/somewhere"])
    return OmegaConf.to_container(cfg.dataset, resolve=True)


@pytest.mark.parametrize("name", [name for name in SETS if "local" not in name])
def test_a_config_names_what_there_is(name):
    given = composed(name)
    settings = {key: value for key, value in given.items() if key not in ("_target_", "read")}
    # Options, reasons and limits are checked here.
    PublicDataset(read=get_object(given["read"]["_target_"]), **settings)
    assert set(given["scorers"].values()) <= set(SCORERS)
    assert set(given["scorers"]) <= {"short", "choice"}
    assert set(given["expected"] or given["splits"]) == set(given["splits"])
    assert given["revision"] == "main" or re.fullmatch("[0-9a-f]{40}", given["revision"])
    assert given["about"]["licence"] and given["about"].get("benchmark") in (None, *given["splits"])
    assert set(given["skip"]) <= set(REASONS)


HAND = {
    "aokvqa": public_rows.AOKVQA, "chartqa": public_rows.CHARTQA, "docvqa": public_rows.DOCVQA,
    "infovqa": public_rows.DOCVQA, "textvqa": public_rows.TEXTVQA, "ai2d": public_rows.AI2D,
    "ai2d_train": {**public_rows.CAULDRON, "texts": [public_rows.CAULDRON["texts"]] * 2},
    "scienceqa": public_rows.SCIENCEQA, "mathvision": public_rows.MATHVISION, "gllava": public_rows.GEO,
    "mathvista": public_rows.MATHVISTA, "ocrbench": public_rows.OCRBENCH, "mmstar": public_rows.MMSTAR,
    "mmmu": public_rows.MMMU,
}  # fmt: skip


@pytest.mark.parametrize("name", HAND)
def test_a_copy_of_each_set_becomes_questions_that_its_right_answer_scores(name, tmp_path):
    given = composed(name)
    pair = {"bytes": RED, "path": None}
    row = {key: pair if value == public_rows.IMAGE else value for key, value in HAND[name].items()}
    table = datasets.Dataset.from_list([{**row, "images": [pair]} if name == "ai2d_train" else row])
    for column in table.column_names:
        if (column in ("image", "decoded_image") and row[column] == pair) or column.startswith("image_"):
            table = table.cast_column(column, datasets.Image())
    if name == "ai2d_train":
        table = table.cast_column("images", datasets.List(datasets.Image()))
    (split, parts), *_ = given["splits"].items()
    for part in [parts] if isinstance(parts, str) else parts[-1:]:
        table.to_parquet(tmp_path / f"{part}-00000-of-00001.parquet")
    (tmp_path / "geoqa_plus").mkdir()
    (tmp_path / "geoqa_plus" / "1.png").write_bytes(RED)
    changes = {"local": str(tmp_path), "splits": {split: part}, "expected": {split: 1}}
    settings = {key: value for key, value in {**given, **changes}.items() if key not in ("_target_", "read")}
    found = list(PublicDataset(read=get_object(given["read"]["_target_"]), **settings))
    assert len(found) == (2 if name == "ai2d_train" else 1)
    for question, files in found:
        check(question)
        assert files == [(RED, ".png")]
        assert judge(question, f"So it is.\n### Answer: {question.answer}", "cot").score == 1.0
        assert question.meta.get("options", {}).items() >= given["options"].items()


BENCHMARKS = ["aokvqa", "chartqa", "docvqa", "infovqa", "textvqa", "ai2d", "scienceqa", "mathvista", "ocrbench",
              "mmstar", "mmmu"]  # fmt: skip
TRAINED_ON = ["aokvqa", "chartqa", "scienceqa", "ai2d_train", "infovqa", "docvqa", "textvqa", "mathvision", "gllava"]


def test_the_papers_nine_sets_and_eleven_benchmarks_are_there():
    assert set(BENCHMARKS) == {name for name in SETS if composed(name).get("about", {}).get("benchmark")}
    assert all("train" in composed(name)["splits"] for name in TRAINED_ON)


def test_the_papers_sets_can_be_prepared_at_once():
    for name, sets in (("paper_benchmarks", BENCHMARKS), ("paper_training", TRAINED_ON)):
        tasks = composed(name)["tasks"]
        assert list(tasks) == sets
        for one, given in tasks.items():
            wanted = composed(one)["about"]["benchmark"] if sets is BENCHMARKS else "train"
            assert (given["only"] or list(given["splits"])) == [wanted], one


def benchmarks_table():
    """The benchmarks as a Markdown table, from conf/dataset; docs/data.md holds it between its two marks."""
    lines = ["| `dataset=` | scorer | split: rows | options | left out, and counted | source |", "|---" * 6 + "|"]
    direct = {"aokvqa_direct", "difficult_direct_answer"}  # of aokvqa with answer=direct, which the paper does not use
    for name in BENCHMARKS:
        given = composed(name)
        split = given["about"]["benchmark"]
        parts = given["splits"][split]
        theirs = parts if isinstance(parts, str) else " + ".join(parts)
        options = ", ".join(f"`{key}={json.dumps(value)}`".replace('"', "") for key, value in given["options"].items())
        skip = ", ".join(reason.replace("_", " ") for reason in given["skip"] if reason not in direct)
        subset = f", {given['name']}" if given["name"] else ""
        lines.append(
            f"| {name} | {', '.join(sorted(set(given['scorers'].values()) - direct))} | "
            f"{theirs}: {given['expected'][split]:,} | {options or '-'} | {skip or '-'} | "
            f"[{given['path']}](https://huggingface.co/datasets/{given['path']}){subset} |"
        )
    return "\n".join(lines)


def test_the_benchmarks_in_the_docs_are_those_of_the_configs():
    text = (CONF.parent / "docs/data.md").read_text(encoding="utf-8")
    shown = text.split("<!-- benchmarks -->")[1].split("<!-- end -->")[0].strip()
    assert shown == benchmarks_table(), f"docs/data.md should hold between the marks:\n{benchmarks_table()}"


real = pytest.mark.skipif(
    not (REAL / "aokvqa_text").is_dir(), reason="RATIONALE_REAL_DATA names no folder of real rows; set it to read them"
)


def real_lines(name):
    return [json.loads(line) for line in (REAL / name / "data.jsonl").read_text(encoding="utf-8").splitlines()]


@real
@pytest.mark.slow
def test_every_real_chart_question_loads():
    source = folder(
        str(REAL / "chartqa_cot"), "chartqa", "relaxed_accuracy", expected={"train": 1131, "val": 225, "test": 71}
    )
    found = list(source)
    assert len(found) == sum(source.counts["read"].values()) == 1427
    assert len({content_name(*file) for _, (file,) in found}) == 1265
    assert sum(q.meta["rationale"] is not None for q, _ in found) == 1317


@real
def test_every_real_competition_problem_loads_but_the_one_whose_choices_repeat():
    root = str(REAL / "mathvision")
    source = folder(
        root, "mathvision", "math", letters=True, skip=["repeated_choices"], expected={"testmini": 304, "test": 228}
    )
    found = {q.question_id: q for q, _ in source}
    assert (len(found), source.counts["left_out"]) == (531, {"testmini/repeated_choices": 1})
    assert Counter(q.kind for q in found.values()) == {"short": 269, "choice": 262}
    for row in real_lines("mathvision"):
        if row.get("choices") and row["id"] in found:
            assert found[row["id"]].answer == row["answer"]


@real
def test_the_hubs_form_of_real_problems_gives_what_the_folder_has():
    unlike = 0
    for row in real_lines("mathvision"):
        hub = {
            "id": row["id"], "question": row["meta"]["raw_question"], "options": row.get("choices", []), "level": 1,
            "decoded_image": b"", "answer": row["answer"], "solution": row.get("rationale"), "subject": "",
        }  # fmt: skip
        found = public_datasets.mathvision(hub)
        # The folder lost the line break around some tags, and joined two words; it lost tags within sentences
        # too, where ours has words.
        unlike += "".join(found.question.split()) != "".join(row["question"].split())
        assert "<image" not in found.question
        told = row["meta"].get("answer_text", row["answer"]) if row.get("choices") else row["answer"]
        assert found.answers == [re.sub(r"<image(\d)>", r"image \1", told)]
    assert unlike == 7


@real
@pytest.mark.parametrize(("name", "count", "split"), [("puzzlevqa", 240, "test"), ("nlvr1", 989, "dev")])
def test_real_choice_questions_load(name, count, split):
    found = list(folder(str(REAL / name), name, "exact", expected={split: count}))
    assert len(found) == count
    assert {(q.kind, q.scorer) for q, _ in found} == {("choice", "multiple_choice")}


@real
def test_real_commonsense_questions_in_the_hubs_form_are_scored_by_their_own_answers():
    scores = Counter()
    for row in real_lines("aokvqa_text"):
        meta = row["meta"]
        hub = {"question_id": row["id"], "question": row["question"], "choices": row["choices"], "image": None,
               "correct_choice_idx": meta["correct_choice_idx"], "direct_answers": str(meta["direct_answers"]),
               "difficult_direct_answer": False, "rationales": meta["rationales"]}  # fmt: skip
        choice, direct = (public_datasets.aokvqa(hub, answer=answer) for answer in ("choice", "direct"))
        assert (choice.answers, sorted(direct.answers)) == ([row["answer"]], sorted(meta["direct_answers"]))
        if len(set(row["choices"])) == 4:
            asked = Question(
                "q", "aokvqa", "val", [], choice.question, choice.answers, "choice", "multiple_choice", choice.choices
            )
            scores[judge(asked, f"So it is.\n### Answer: {asked.answer}", "cot").score] += 1
        else:
            scores["repeated"] += 1
    assert scores == {1.0: 1138, "repeated": 7}


@real
def test_real_rows_without_an_image_are_refused_by_line():
    with pytest.raises(RowError, match=r"aokvqa_text/data\.jsonl:1: no 'image' in this row"):
        list(folder(str(REAL / "aokvqa_text"), "aokvqa", "exact"))


def source_of(name, root, splits, **changes):
    given = {**composed(name), "local": str(root), "splits": splits, "expected": None, **changes}
    settings = {key: value for key, value in given.items() if key not in ("_target_", "read")}
    return PublicDataset(read=get_object(given["read"]["_target_"]), **settings)


def test_both_parts_of_gllava_are_prepared_together(tmp_path):
    (tmp_path / "geoqa_plus").mkdir()
    (tmp_path / "geoqa_plus/1.png").write_bytes(RED)
    parts = {"gllava": ("qa_tuning", public_rows.GEO)}
    said = [{"from": "human", "value": "Describe it."}, {"from": "gpt", "value": "A triangle."}]
    parts["gllava_alignment"] = ("alignment", {**public_rows.GEO, "conversations": said})
    for part, row in parts.values():
        (tmp_path / f"{part}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    both = PublicDatasets({name: source_of(name, tmp_path, {"train": part}) for name, (part, _) in parts.items()})
    (tmp_path / "out").mkdir()
    assert prepare.run(both, tmp_path / "out")["by_split"] == {"gllava/train": 2}
    found = read_jsonl(tmp_path / "out/questions.jsonl", Question)
    assert [q.question_id for q in found] == ["gllava-train-0", "gllava_alignment-train-0"]


def test_the_authors_mathvista_is_read_as_they_give_it(tmp_path):
    """`data/testmini.json` of lupantech/MathVista: an object of rows by id, each with the path of its image."""
    (tmp_path / "data").mkdir()
    (tmp_path / "images").mkdir()
    row = {key: value for key, value in public_rows.MATHVISTA.items() if key not in ("decoded_image", "query")}
    rows = {str(i): {**row, "pid": str(i), "image": f"images/{i}.jpg"} for i in (1, 2)}
    for i in rows:
        (tmp_path / f"images/{i}.jpg").write_bytes(RED)
    (tmp_path / "data/testmini.json").write_text(json.dumps(rows, indent=4), encoding="utf-8")
    found = list(source_of("mathvista", tmp_path, {"test": "testmini"}, expected={"test": 2}))
    assert [(q.question_id, q.answers) for q, _ in found] == [(f"mathvista-test-{i}", ["1.2"]) for i in rows]


@real
def test_the_real_direct_answers_of_aokvqa_are_all_prepared(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    lines = []
    for row in real_lines("aokvqa_text"):
        hub = {"question_id": row["id"], "question": row["question"], "choices": row["choices"], "image": "red.png",
               "correct_choice_idx": row["meta"]["correct_choice_idx"], "direct_answers": row["meta"]["direct_answers"],
               "difficult_direct_answer": False, "rationales": row["meta"]["rationales"]}  # fmt: skip
        lines.append(json.dumps(hub) + "\n")
    (tmp_path / "validation.jsonl").write_text("".join(lines), encoding="utf-8")
    task = source_of("aokvqa", tmp_path, {"val": "validation"}, expected={"val": 1145}, options={"answer": "direct"})
    (tmp_path / "out").mkdir()
    assert prepare.run(task, tmp_path / "out")["questions"] == 1145
    found = read_jsonl(tmp_path / "out/questions.jsonl", Question)
    assert sum("" in q.answers for q in found) == 1
    assert {len(q.answers) for q in found} == {10}
