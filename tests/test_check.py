"""Stage check: one page about a checkpoint on this machine; the first thing that is wrong ends it. Stage predict."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from checking import page
from families import CASES, EVERY, PROMPTS
from loopback import Loopback, asked_of

from rationale.artifacts import UserError
from rationale.endpoints.chat import ImageEncoding
from rationale.endpoints.client import RequestPolicy
from rationale.endpoints.generator import Served
from rationale.endpoints.parity import same_texts
from rationale.models import prefix
from rationale.models.batch import Example
from rationale.models.checks import num_features
from rationale.models.encode import Encoder
from rationale.models.generate import generate
from rationale.models.local import Local
from rationale.models.prefill import trained_logps
from rationale.models.towers import read_once
from rationale.models.vlm import load, read_processor
from rationale.prompts import prompt_text
from rationale.replies import Budget
from rationale.tools import predict


def test_the_page_shows_prompt_image_tokens_layouts_and_steps(tiny_dir, questions_dir, capsys):
    out = page(capsys, partial(load, str(tiny_dir)), str(questions_dir))
    assert "llava with llama" in out and "layout: tree" in out
    assert "last: " in out and "'<|assistant|>'" in out and "'</s>'" in out
    assert "64x64: 16, 336x336: 16, 1344x336: 16, 2000x100: 16" in out
    gaps = re.findall(r"(rows|tree) against transformers: log p of a token within (\S+), gradients within (\S+)\n", out)
    assert [layout for layout, *_ in gaps] == ["rows", "tree"]
    assert all(float(value) < 1e-3 for _, *values in gaps for value in values)
    assert re.findall(r"reference (\w+): first loss 0\.693\d", out) == ["frozen", "scored"]
    assert out.endswith("All of it is as it should be.\n")


def test_adapters_off_are_a_third_reference(tiny_dir, capsys):
    lora = {"r": 2, "target_modules": ["q_proj"]}
    out = page(capsys, partial(load, str(tiny_dir), lora=lora))
    assert re.findall(r"reference (\w+): first loss 0\.693\d", out) == ["frozen", "scored", "adapter_off"]


def test_a_layout_with_other_values_ends_the_page_with_what_to_do(tiny_dir, capsys, monkeypatch):
    monkeypatch.setattr(prefix, "after", lambda positions: positions.amax(-1, keepdim=True) + 9)
    with pytest.raises(UserError, match=r"layout tree gives other values than transformers .* set layout=rows"):
        page(capsys, partial(load, str(tiny_dir)))


def test_a_response_that_ends_where_generation_goes_on_ends_the_page(tiny_dir, capsys):
    def read():
        vlm = load(str(tiny_dir))
        vlm.model.generation_config.eos_token_id = 5
        return vlm

    with pytest.raises(UserError, match=r"trained to end with '</s>' .*, and generation ends with"):
        page(capsys, read)


def test_a_prompt_with_fewer_image_tokens_than_features_ends_the_page(tiny_dir, capsys):
    def read():
        vlm = load(str(tiny_dir))
        vlm.processor.num_additional_image_tokens = 0
        return vlm

    with pytest.raises(UserError, match=r"15 image tokens for .*64x64.png, of which the model makes 16 features"):
        page(capsys, read)


class ModelServer(Loopback):
    """Serves a model of its own: greedy, with log-probs and prompt tokens of the image that it is sent; `change` alters
    its replies."""

    def __init__(self, folder, scratch, change=lambda body, reply: reply):
        super().__init__()
        self.vlm, self.scratch, self.change = load(str(folder)), scratch, change

    def completion(self, body, fault):
        image = self.scratch / f"sent_{sum(self.asked.values())}.png"
        image.write_bytes(base64.b64decode(body["messages"][-1]["content"][0]["image_url"]["url"].split(",")[1]))
        asked, encoder = Example("", (image,), asked_of(body)[0], ""), Encoder(self.vlm.processor)
        ((said,),) = generate(self.vlm, [asked], body["max_tokens"])
        answered = replace(asked, response=said.text, ended=said.finished, token_ids=tuple(said.token_ids))
        (logps,) = trained_logps(self.vlm.model, encoder, [answered])
        choice = {
            "finish_reason": "stop" if said.finished else "length", "message": {"content": said.text},
            "logprobs": {"content": [{"token": "?", "logprob": value} for value in logps]},
        }  # fmt: skip
        prompt = encoder.prompts([asked])["input_ids"].shape[1]
        reply = {"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": said.num_tokens}}
        return 200, self.change(body, reply)


def served(server):
    traffic = RequestPolicy(1, None, None, 60, 1, 0.1, 1, 60, 5)
    return partial(
        Served, model_name="m", base_url=server.url, key_variable=None, token_limit="max_tokens", options={},
        samples_per_request=1, at_once=4, picture=ImageEncoding(2048, "PNG", 90, "auto"), traffic=traffic,
        budget=Budget(),
    )  # fmt: skip


def served_page(capsys, tiny_dir, questions_dir, tmp_path, change=lambda body, reply: reply):
    with ModelServer(tiny_dir, tmp_path, change) as server:
        out = page(capsys, partial(load, str(tiny_dir)), str(questions_dir), served(server))
        assert sum(server.asked.values()) == 4
    return out


def test_a_server_of_the_same_model_agrees_in_prompt_tokens_log_probs_and_texts(
    tiny_dir, questions_dir, tmp_path, capsys
):
    out = served_page(capsys, tiny_dir, questions_dir, tmp_path)
    assert re.search(r"served, prompt tokens: \d+, \d+, \d+, \d+, as here\n", out)
    largest, mean, tokens = re.search(
        r"within (\S+) of training's .*mean (\S+)\), (\d+) tokens of 4 of 4 r", out
    ).groups()
    assert float(mean) <= float(largest) < 1e-4
    assert int(tokens) == 16
    assert "served, greedy: 4 of 4 texts are this model's\n" in out


def test_a_server_without_log_probs_or_token_counts_is_compared_by_its_texts_alone(
    tiny_dir, questions_dir, tmp_path, capsys
):
    def bare(body, reply):
        del reply["choices"][0]["logprobs"]
        return {"choices": reply["choices"]}

    out = served_page(capsys, tiny_dir, questions_dir, tmp_path, bare)
    assert "served, prompt tokens: the server does not say how many\n" in out
    assert "served, log p: the server gives none, so prompt tokens and texts alone are compared\n" in out
    assert "served, greedy: 4 of 4 texts" in out


def fewer_tokens(body, reply):
    reply["usage"]["prompt_tokens"] -= 16
    return reply


def other_logps(body, reply):
    reply["choices"][0]["logprobs"]["content"][1]["logprob"] -= 0.3
    return reply


def penalised(body, reply):
    reply["choices"][0] = {"finish_reason": "length", "message": {"content": "left from left to"}}
    return reply


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fewer_tokens, r"the server read \d+ prompt tokens, this model \d+: image sizes or the chat template differ"),
        (other_logps, r"the server gives token 2 of .* log p -\d+\.\d+, this model -\d+\.\d+ \(limit 0.25\)"),
        (penalised, r"the server says 'left from left to', .* their token 1 is not the likeliest here"),
    ],
)
def test_a_server_that_answers_otherwise_ends_the_page_with_what_it_did(
    change, said, tiny_dir, questions_dir, tmp_path, capsys
):
    with pytest.raises(UserError, match=said):
        served_page(capsys, tiny_dir, questions_dir, tmp_path, change)


def test_of_several_servers_each_is_compared_and_the_one_that_answers_otherwise_is_named(
    tiny_dir, questions_dir, tmp_path, capsys
):
    with ModelServer(tiny_dir, tmp_path) as like, ModelServer(tiny_dir, tmp_path, fewer_tokens) as other:
        answer = served(SimpleNamespace(url=[like.url, other.url]))
        with pytest.raises(UserError, match=rf"{other.url}: \S+: the server read \d+ prompt tokens"):
            page(capsys, partial(load, str(tiny_dir)), str(questions_dir), answer)
    said = capsys.readouterr().out
    assert said.index(f"served at {like.url}:\nserved, prompt tokens") < said.index(f"served at {other.url}:\n")
    assert said.count("texts are this model's\n") == 1


def test_greedy_texts_may_part_where_two_tokens_are_about_as_likely(tiny):
    encoder = Encoder(tiny.processor)
    here, there = (Example("q", (), "", text, ended=False) for text in ("1", "2"))
    assert same_texts(encoder, [there], [here], [[-0.9], [-0.7]], 0.25).startswith("0 of 1 texts are this model's; ")
    with pytest.raises(UserError, match=r"log p -1.000 against -0.700"):
        same_texts(encoder, [there], [here], [[-1.0], [-0.7]], 0.25)


def test_an_endpoint_that_takes_no_logprobs_is_asked_without(tiny_dir, questions_dir, questions):
    class Strict(Loopback):
        def completion(self, body, fault):
            return super().completion(body, "400" if "logprobs" in body else None)

    asked = [Example(q.question_id, q.files(questions_dir), prompt_text(q, "cot"), "") for q in questions[:2]]
    with Strict() as server:
        replies = served(server)(None).greedy(asked, 4)
    assert [reply.logps for reply in replies] == [[], []]
    assert ["logprobs" in body for body in server.bodies] == [True, True, False, False]


@pytest.mark.parametrize(("fewer", "warnings"), [(0, 0), (16, 1)])
def test_sampling_from_a_server_warns_once_where_it_reads_other_prompt_tokens(
    fewer, warnings, tiny_dir, questions_dir, questions, tmp_path, caplog
):
    def change(body, reply):
        reply["usage"]["prompt_tokens"] -= fewer
        return reply

    asked = [Example(q.question_id, q.files(questions_dir), prompt_text(q, "cot"), "") for q in questions[:2]]
    with ModelServer(tiny_dir, tmp_path, change) as server:
        answer = served(server)(None, processor=partial(read_processor, str(tiny_dir)))
        for _ in range(2):
            answer(asked, 3, 1, 1.0)
    assert caplog.text.count(f"{asked[0].question_id}: the server read") == warnings


def test_predict_prints_one_answer_in_each_style(tiny_dir, questions_dir, questions, capsys):
    predict.run(
        model=partial(load, str(tiny_dir)), generator=Local, image=str(questions[0].files(questions_dir)[0]),
        question="How many?", choices=[], styles=["direct", "cot"], max_new_tokens={"direct": 2, "cot": 3},
    )  # fmt: skip
    direct, cot = capsys.readouterr().out.splitlines()
    assert direct.startswith("direct: ") and cot.startswith("cot: ") and cot.endswith("[cut at 3 tokens]")


def test_predict_names_what_is_missing():
    with pytest.raises(UserError, match=r"needs image=<file> and question="):
        predict.run(load, Local, None, "How many?", [], ["direct"], {"direct": 1})
    with pytest.raises(UserError, match=r"image=nowhere.png: no such file"):
        predict.run(load, Local, "nowhere.png", "How many?", [], ["direct"], {"direct": 1})


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "smolvlm", "internvl", "gemma3"])
def test_a_tower_that_reads_once_reads_each_image_once_and_nothing_else_changes(name):
    torch.manual_seed(0)
    model = (built := EVERY[name]()).model.eval()
    inputs = built.prompts(PROMPTS, CASES)  # five rows about two images
    expected, read = model(**inputs).logits, []
    tower = model.model.vision_model if name == "smolvlm" else model.model.vision_tower
    plain = tower.forward

    def counted(*images, **named):
        read.append(len([*images, *named.values()][0]))
        return plain(*images, **named)

    tower.forward = counted
    with read_once(model):
        found = [model(**inputs).logits for _ in range(2)]
    one = len(built.prompts(PROMPTS, CASES[:1])["pixel_values"].flatten(0, -4))
    assert read == [2 * one]
    for logits in found:
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_features_are_counted_without_being_computed(name):
    built = EVERY[name]()
    assert num_features(built.model, built.prompts(PROMPTS, CASES[:1])) == built.tokens
