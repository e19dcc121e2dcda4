"""Sample, pair, score, dpo and evaluate as stages: files in, files out, and on again after a cut."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from families import gemma3
from fitting import QUIET, WHOLE, train_dpo
from PIL import Image
from transformers import Gemma3ImageProcessorPil, Gemma3Processor, PreTrainedTokenizerFast

from rationale.artifacts import UserError
from rationale.models import local
from rationale.models.encode import Encoder
from rationale.models.local import Local
from rationale.models.logps import response_logps
from rationale.models.prefix import layout_for
from rationale.models.response import Truncation, response_example
from rationale.models.vlm import VLM, load
from rationale.pairing import PairingRule
from rationale.schema import EvalRow, Pair, Question, Response, ResponseLogps, RowError, read_jsonl, write_jsonl
from rationale.stages import evaluate, pair, sample, score


@pytest.fixture
def model(tiny_dir):
    return partial(load, str(tiny_dir))


@pytest.fixture
def sampled(questions_dir, model):
    """Arguments of stage sample: two candidates a question, four questions a batch."""
    return {
        "questions": str(questions_dir),
        "model": model,
        "generator": Local,
        "sampling": sample.Sampling(
            "train", 10, ["mini_form"], "cot", 2, {"short": 1.0, "choice": 1.2}, 1.0, max_new_tokens=5, batch_size=4
        ),
        "seed": 1,
    }


@pytest.fixture
def pairs_dir(questions, tmp_path):
    """Eight pairs of made-up responses."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [q for q in questions if q.split == "train"][:8]
    write_jsonl(
        folder / "pairs.jsonl",
        [
            Pair(q.question_id, 0, "cot", f"so it is {i}", f"it is not {i} at all", 0, 1, "1", "2")
            for i, q in enumerate(rows)
        ],
    )
    return folder


def test_sample_draws_the_asked_number_for_each_question(sampled, tmp_path):
    counts = sample.run(**sampled, out=tmp_path)
    rows = read_jsonl(tmp_path / "rows.jsonl", Response)
    assert counts["questions"] == 10
    assert [r.sample_id for r in rows] == [0, 1] * 10
    assert not any(r.question_id.startswith("mini_form") for r in rows)


def test_sample_goes_on_after_a_cut_and_ends_with_the_same_bytes(sampled, tmp_path, monkeypatch):
    (tmp_path / "uncut").mkdir()
    (tmp_path / "cut").mkdir()
    sample.run(**sampled, out=tmp_path / "uncut")
    calls, real = iter(range(100)), local.generate

    def failing(*args, **options):
        if next(calls) == 2:
            raise OSError("the power went")
        return real(*args, **options)

    monkeypatch.setattr(local, "generate", failing)
    with pytest.raises(OSError, match="the power went"):
        sample.run(**sampled, out=tmp_path / "cut")
    before = next(calls)
    sample.run(**sampled, out=tmp_path / "cut")
    assert (tmp_path / "cut" / "rows.jsonl").read_bytes() == (tmp_path / "uncut" / "rows.jsonl").read_bytes()
    assert next(calls) - before == 2  # only the one batch that was left


def test_pair_without_any_pair_says_why(sampled, questions_dir, tmp_path):
    (tmp_path / "responses").mkdir()
    sample.run(**sampled, out=tmp_path / "responses")
    with pytest.raises(UserError, match=r"no pair under .* reasons: .*too_hard"):
        pair.run(str(questions_dir), str(tmp_path / "responses"), PairingRule(), 1, tmp_path)


def test_pair_counts_what_became_of_every_question(questions, questions_dir, tmp_path):
    first, second = [q.question_id for q in questions if q.split == "train"][:2]
    rows = [Response(first, i, "cot", f"text {i}", "1", float(i == 0), True) for i in range(4)]
    rows += [Response(second, i, "cot", f"text {i}", "1", 1.0, True) for i in range(4)]
    (tmp_path / "responses").mkdir()
    write_jsonl(tmp_path / "responses" / "rows.jsonl", rows)
    counts = pair.run(str(questions_dir), str(tmp_path / "responses"), PairingRule(), 1, tmp_path)
    assert counts == {"pairs": 1, "questions": 2, "questions_paired": 1, "questions_too_easy": 1}


def test_feedback_of_the_majority_asks_no_annotation(questions, questions_dir, tmp_path):
    asked = next(q.question_id for q in questions if q.split == "train" and q.scorer != "multiple_choice")
    answers = ["7", "7.0", "7", "8", None]  # the annotation says that the 8 is right
    rows = [Response(asked, i, "cot", f"text {i}", a, float(a == "8"), True) for i, a in enumerate(answers)]
    (tmp_path / "responses").mkdir()
    write_jsonl(tmp_path / "responses" / "rows.jsonl", rows)
    rule = PairingRule(feedback="majority")
    assert pair.run(str(questions_dir), str(tmp_path / "responses"), rule, 1, tmp_path)["pairs"] == 2
    found = read_jsonl(tmp_path / "pairs.jsonl", Pair)
    assert {p.chosen_id for p in found} < {0, 1, 2} and {p.rejected_id for p in found} == {3, 4}


def test_score_stores_what_the_model_says_of_each_distinct_response(
    questions, questions_dir, pairs_dir, model, tmp_path
):
    counts = score.run(str(questions_dir), str(pairs_dir), model, WHOLE, batch_size=3, layout="tree", out=tmp_path)
    rows = read_jsonl(tmp_path / "rows.jsonl", ResponseLogps)
    assert counts == {"responses": 16}
    by_id = {q.question_id: q for q in questions}
    vlm = model()
    vlm.model.eval()
    for row in rows[:3]:
        q = by_id[row.question_id]
        example = response_example((q.question_id, "cot", row.text, True, ()), q, questions_dir, WHOLE)
        alone = response_logps(vlm.model, Encoder(vlm.processor).batch([example]))[0]
        torch.testing.assert_close(torch.tensor(row.logps), alone, atol=1e-5, rtol=0)


def cut_and_whole(questions, folder):
    """Two pairs of one question whose chosen responses read alike: one ended by itself, one was cut at the limit."""
    asked = next(q for q in questions if q.split == "train").question_id
    folder.mkdir()
    write_jsonl(folder / "pairs.jsonl", [
        Pair(asked, i, "cot", "so it is 1", f"it is not {i}", 0, 1, "1", "2", chosen_finished=finished)
        for i, finished in enumerate((True, False))
    ])  # fmt: skip
    return folder


def test_a_text_with_its_end_and_without_is_scored_as_two(questions, questions_dir, model, tmp_path):
    pairs = cut_and_whole(questions, tmp_path / "pairs")
    score.run(str(questions_dir), str(pairs), model, WHOLE, batch_size=4, layout="tree", out=tmp_path)
    rows = [r for r in read_jsonl(tmp_path / "rows.jsonl", ResponseLogps) if r.text == "so it is 1"]
    whole, cut = sorted(rows, key=lambda r: not r.finished)
    num = len(model().tokenizer("so it is 1", add_special_tokens=False)["input_ids"])
    assert [(whole.finished, len(whole.logps)), (cut.finished, len(cut.logps))] == [(True, num + 1), (False, num)]
    assert whole.logps[:-1] == pytest.approx(cut.logps, abs=1e-5)


def test_each_end_of_a_text_reads_its_own_stored_log_probs(questions, questions_dir, model, tmp_path):
    pairs = cut_and_whole(questions, tmp_path / "pairs")
    (tmp_path / "logps").mkdir()
    score.run(str(questions_dir), str(pairs), model, WHOLE, batch_size=4, layout="tree", out=tmp_path / "logps")
    frozen, _ = train_dpo(questions_dir, pairs, model, tmp_path / "frozen", "frozen")
    scored, _ = train_dpo(questions_dir, pairs, model, tmp_path / "scored", "scored", str(tmp_path / "logps"))
    assert max((frozen[n] - scored[n]).abs().max().item() for n in frozen) < 1e-4


@pytest.mark.parametrize(
    ("truncate", "equal"),
    [
        ({}, 0),
        ({"words": 3}, 1),  # the first pair: "so it is" and "so it is"
        ({"tokens": 1}, 3),  # all that begin alike
        ({"eos": "never"}, 1),  # what tells the third pair apart is the end alone
    ],
)
def test_pairs_that_truncation_makes_equal_are_left_out_and_counted(
    truncate, equal, questions, questions_dir, model, tmp_path
):
    asked = next(q for q in questions if q.split == "train").question_id
    texts = [("so it is 1", "so it is 2"), ("so it 1 is", "so it 2 is"), ("it is", "it is"), ("no it is", "so it is")]
    rows = [Pair(asked, i, "cot", *both, 0, 1, "1", "2") for i, both in enumerate(texts)]
    rows[2] = replace(rows[2], rejected_finished=False)
    (tmp_path / "pairs").mkdir()
    write_jsonl(tmp_path / "pairs" / "pairs.jsonl", rows)
    made = partial(train_dpo, questions_dir, tmp_path / "pairs", model, truncate=replace(WHOLE, **truncate))
    _, counts = made(tmp_path / "out", "frozen")
    assert (counts["equal_after_truncation"], counts["pairs"]) == (equal, 4 - equal)


def test_pairs_that_are_all_equal_after_truncation_are_refused(questions_dir, pairs_dir, model, tmp_path):
    rows = [replace(p, rejected=f"{p.chosen} not") for p in read_jsonl(pairs_dir / "pairs.jsonl", Pair)]
    write_jsonl(pairs_dir / "pairs.jsonl", rows)
    with pytest.raises(UserError, match=r"8 of 8 pairs have .* the same tokens after dpo\.truncate=.*none to train on"):
        train_dpo(questions_dir, pairs_dir, model, tmp_path / "out", "frozen", truncate=replace(WHOLE, **{"words": 2}))


def test_score_of_a_response_whose_question_is_absent_is_refused(questions_dir, model, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [Response("nobody", 0, "cot", "text", None, 0.0, True)])
    with pytest.raises(RowError, match="1 rows without their question, first 'nobody'"):
        score.run(str(questions_dir), str(tmp_path), model, WHOLE, batch_size=2, layout="tree", out=tmp_path)


@pytest.fixture
def gemma(tiny, tmp_path):
    """A tiny Gemma 3 with a processor of its own class."""
    words, template = tiny.tokenizer, tiny.processor.chat_template.replace("<image>", "<boi>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    processor = Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)
    torch.manual_seed(0)
    model = gemma3(tokenizer.image_token_id, vocab_size=len(tokenizer)).model
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    VLM(model, processor, "random").save(tmp_path / "gemma")
    return partial(load, str(tmp_path / "gemma"), family="gemma3")


def test_auto_trains_a_model_that_cannot_share_in_rows_and_says_why(questions_dir, pairs_dir, gemma, tmp_path, capsys):
    """And its first loss is log 2 against stored log-probs, which training looks at itself."""
    (tmp_path / "logps").mkdir()
    score.run(str(questions_dir), str(pairs_dir), gemma, WHOLE, batch_size=4, layout="auto", out=tmp_path / "logps")
    train_dpo(questions_dir, pairs_dir, gemma, tmp_path / "o", "scored", str(tmp_path / "logps"), layout="auto")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layout: ")]
    assert len(said) == 2 and all(line.startswith("layout: rows, because gemma3 was not compared") for line in said)


def test_a_tree_that_was_asked_for_and_cannot_be_is_refused(questions_dir, pairs_dir, gemma, tmp_path):
    with pytest.raises(UserError, match=r"gemma3: its prefix cannot be shared .*; set layout=rows"):
        train_dpo(questions_dir, pairs_dir, gemma, tmp_path / "o", layout="tree")


def test_auto_is_tree_where_the_model_can_share_and_rows_with_another_attention(tiny_dir, capsys):
    assert layout_for(load(str(tiny_dir)).model, "auto") == "tree"
    assert layout_for(load(str(tiny_dir)).model, "rows") == "rows"
    assert capsys.readouterr().out == ""
    assert layout_for(load(str(tiny_dir), attention="eager").model, "auto") == "rows"
    assert capsys.readouterr().out == "layout: rows, because a shared prefix needs model.attention=sdpa\n"


def test_dpo_with_a_stored_reference_ends_where_a_frozen_one_ends(questions_dir, pairs_dir, model, tmp_path):
    (tmp_path / "logps").mkdir()
    score.run(str(questions_dir), str(pairs_dir), model, WHOLE, batch_size=4, layout="tree", out=tmp_path / "logps")
    frozen, _ = train_dpo(questions_dir, pairs_dir, model, tmp_path / "frozen", "frozen")
    scored, _ = train_dpo(questions_dir, pairs_dir, model, tmp_path / "scored", "scored", str(tmp_path / "logps"))
    assert max((frozen[n] - scored[n]).abs().max().item() for n in frozen) < 1e-4
    assert any(not torch.equal(value, frozen[name]) for name, value in model().model.state_dict().items())


def test_pairs_of_named_data_sets_alone_are_trained_on(questions_dir, pairs_dir, model, tmp_path):
    known = {q.question_id: q.dataset for q in read_jsonl(questions_dir / "questions.jsonl", Question)}
    pairs = Counter(known[p.question_id] for p in read_jsonl(pairs_dir / "pairs.jsonl", Pair))
    name = min(pairs)
    _, counts = train_dpo(questions_dir, pairs_dir, model, tmp_path / "one", "frozen", datasets=[name])
    assert (counts["pairs"], counts["of_other_datasets"]) == (pairs[name], pairs.total() - pairs[name])
    with pytest.raises(UserError, match=r"none of \d+ pairs is of dpo\.datasets=\['nowhere'\]"):
        train_dpo(questions_dir, pairs_dir, model, tmp_path / "none", "frozen", datasets=["nowhere"])


def noisy(vlm):
    next(vlm.model.parameters()).data += 1e-3
    return vlm


def reworded(vlm):
    vlm.processor.chat_template += " "
    return vlm


def coarser(vlm):
    vlm.processor.image_processor.image_mean = [0.5] * 3
    return vlm


@pytest.mark.parametrize(
    ("change", "truncate", "named"),
    [
        (noisy, WHOLE, "weights: "),
        (reworded, WHOLE, "processor: "),
        (coarser, WHOLE, "processor: "),
        (lambda vlm: VLM(vlm.model.bfloat16(), vlm.processor, ""), WHOLE, "dtype: torch.float32 then, torch.bfloat16"),
        (lambda vlm: vlm, replace(WHOLE, words=2), "truncate: "),
    ],
)
def test_a_reference_stored_with_something_else_is_refused(
    change, truncate, named, questions_dir, pairs_dir, model, tmp_path
):
    (tmp_path / "logps").mkdir()
    score.run(str(questions_dir), str(pairs_dir), model, WHOLE, batch_size=4, layout="tree", out=tmp_path / "logps")
    with pytest.raises(UserError, match=f"are of something else .*{named}.*re-run stage=score"):
        train_dpo(
            questions_dir, pairs_dir, lambda lora: change(model()), tmp_path / "o", "scored", str(tmp_path / "logps"),
            truncate,
        )  # fmt: skip


def test_a_stored_reference_is_of_the_precision_that_is_trained_in(questions_dir, pairs_dir, model, tmp_path):
    half = partial(QUIET, precision="bf16-mixed")
    for precision in ("32-true", "bf16-mixed"):
        (tmp_path / precision).mkdir()
        score.run(str(questions_dir), str(pairs_dir), model, WHOLE, 4, "tree", tmp_path / precision, precision)
    with pytest.raises(UserError, match="precision: 32-true then, bf16-mixed now"):
        train_dpo(
            questions_dir, pairs_dir, model, tmp_path / "o", "scored", str(tmp_path / "32-true"), trainer=half
        )  # fmt: skip
    found, _ = train_dpo(
        questions_dir, pairs_dir, model, tmp_path / "out", "scored", str(tmp_path / "bf16-mixed"), trainer=half
    )
    assert all(value.isfinite().all() for value in found.values())


def test_a_reference_stored_for_another_image_of_that_name_is_refused(questions_dir, pairs_dir, model, tmp_path):
    (tmp_path / "logps").mkdir()
    score.run(str(questions_dir), str(pairs_dir), model, WHOLE, batch_size=4, layout="tree", out=tmp_path / "logps")
    moved = Path(shutil.copytree(questions_dir, tmp_path / "moved"))
    for path in (moved / "images").iterdir():
        Image.new("RGB", (64, 64), "red").save(path)
    with pytest.raises(RowError, match="image or prompt of 16 responses changed since"):
        train_dpo(moved, pairs_dir, model, tmp_path / "o", "scored", str(tmp_path / "logps"))


def test_a_lora_policy_takes_what_was_stored_for_the_model_beneath_it(questions_dir, pairs_dir, model, tmp_path):
    (tmp_path / "logps").mkdir()
    score.run(str(questions_dir), str(pairs_dir), model, WHOLE, batch_size=4, layout="tree", out=tmp_path / "logps")
    adapter = {"r": 2, "target_modules": ["q_proj"]}
    train_dpo(questions_dir, pairs_dir, model, tmp_path / "o", "scored", str(tmp_path / "logps"), lora=adapter)
    assert (tmp_path / "o/model/config.json").is_file()


def test_scored_without_a_stored_reference_says_which_stage_makes_it(questions_dir, pairs_dir, model, tmp_path):
    with pytest.raises(UserError, match="run stage=score on the pairs first"):
        train_dpo(questions_dir, pairs_dir, model, tmp_path / "out", "scored")


def test_evaluate_keeps_a_row_for_every_question_and_style(questions, questions_dir, model, tmp_path):
    evaluation = evaluate.Evaluation("tiny", "test", ["direct", "cot"], {"direct": 2, "cot": 4}, batch_size=5)
    evaluate.run(str(questions_dir), model, Local, evaluation, 1, tmp_path)
    rows = read_jsonl(tmp_path / "rows.jsonl", EvalRow)
    asked = {q.question_id for q in questions if q.split == "test"}
    assert sorted((r.question_id, r.style) for r in rows) == sorted((i, s) for i in asked for s in ("direct", "cot"))
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert sum(cell["questions"] for cell in summary["cells"].values()) == len(rows)
    assert (summary["name"], summary["seed"], summary["blind"]) == ("tiny", 1, False)


def test_an_evaluated_row_says_the_options_of_its_question(questions, questions_dir, model, tmp_path):
    named = [replace(q, meta={**q.meta, "options": {"hint": False}}) for q in questions if q.split == "val"]
    shutil.copytree(questions_dir / "images", tmp_path / "images")
    write_jsonl(tmp_path / "questions.jsonl", named)
    (tmp_path / "out").mkdir()
    evaluation = evaluate.Evaluation("tiny", "val", ["direct"], {"direct": 1}, 8)
    evaluate.run(str(tmp_path), model, Local, evaluation, 1, tmp_path / "out")
    rows = read_jsonl(tmp_path / "out" / "rows.jsonl", EvalRow)
    assert len(rows) == len(named) > 0
    assert all(row.options == {"hint": False} for row in rows)


@pytest.mark.parametrize(
    ("rule", "limit", "ended", "expected"),
    [
        ("uncut", None, True, True),
        ("uncut", 2, True, False),
        ("uncut", None, False, False),
        ("always", 2, True, True),
        ("never", None, True, False),
    ],
)
def test_the_end_token_follows_the_stated_rule(rule, limit, ended, expected, tmp_path):
    cut = Truncation(words=limit, tokens=None, eos=rule)
    asked = Question("q", "d", "train", ["a.png"], "What is counted?", ["three"])
    assert response_example(("q", "cot", "one two three", ended, ()), asked, tmp_path, cut).ended is expected


def test_an_unknown_end_token_rule_is_refused():
    with pytest.raises(ValueError, match=r"eos\n *Input should be 'uncut', 'always' or 'never' .*'sometimes'"):
        Truncation(words=None, tokens=None, eos="sometimes")
