"""Batches: prompts on the left, responses on the right, and log-probs that do not depend on padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rationale.artifacts import UserError
from rationale.models import layout
from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.response import Truncation, response_example
from rationale.objectives.logprobs import IGNORE, shifted, token_logps
from rationale.schema import Question


def test_labels_are_the_response_and_its_end_token(tiny, examples):
    batch = Encoder(tiny.processor).batch(examples[:2])
    ids = tiny.tokenizer(examples[0].response, add_special_tokens=False)["input_ids"]
    assert batch.labels[0][batch.mask[0]].tolist() == [*ids, tiny.tokenizer.eos_token_id]


def test_the_last_columns_of_a_row_are_its_response(tiny, examples):
    batch = Encoder(tiny.processor).batch(examples)
    width = batch.labels.shape[1]
    assert torch.equal(batch.inputs["input_ids"][:, -width:][batch.mask], batch.labels[batch.mask])


def test_a_response_that_did_not_end_gets_no_end_token(tiny, examples):
    (ids,) = Encoder(tiny.processor).responses([replace(examples[0], ended=False)])
    assert ids[-1] != tiny.tokenizer.eos_token_id


def test_a_response_that_brings_its_tokens_has_those(tiny, examples):
    """`so it` one letter a token, as it may have been sampled; a text that is cut by words has its own again."""
    encoder = Encoder(tiny.processor)
    letters = tuple(encoder.tokenizer.convert_tokens_to_ids(["s", "o", "Ġ", "i", "t"]))
    spelled = replace(examples[0], response="so it", token_ids=letters)
    assert encoder.responses([spelled]) == [[*letters, encoder.end_id]]
    assert encoder.response_lengths([spelled]) == [6]
    assert encoder.spans([spelled]) == [[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]]
    asked = Question("q", "d", "train", ["a.png"], "Why?", ["so it"])
    for words, kept in ((2, letters), (1, ())):
        truncate = Truncation(words=words, tokens=None, eos="uncut")
        assert response_example(("q", "cot", "so it", True, letters), asked, Path(), truncate).token_ids == kept


def test_spans_are_those_of_the_tokens_in_the_text(tiny, examples):
    encoder = Encoder(tiny.processor)
    (ids,), (spans,) = encoder.responses(examples[3:4]), encoder.spans(examples[3:4])
    assert [examples[3].response[start:end] for start, end in spans] == [encoder.tokenizer.decode(i) for i in ids[:-1]]


def test_a_cut_response_keeps_its_first_tokens_and_no_end_token(tiny, examples):
    (whole,), (cut,) = (Encoder(tiny.processor, limit).responses(examples[3:4]) for limit in (None, 2))
    assert cut == whole[:2]


def test_truncation_never_touches_image_tokens(tiny, examples):
    count = tiny.processor.image_token_id
    cut, whole = Encoder(tiny.processor, 1).batch(examples[:1]), Encoder(tiny.processor).batch(examples[:1])
    assert (cut.inputs["input_ids"] == count).sum() == (whole.inputs["input_ids"] == count).sum() == 16  # (64 / 16)^2


def test_logps_do_not_depend_on_what_else_is_in_the_batch(tiny, examples):
    encoder = Encoder(tiny.processor)
    tiny.model.eval()
    together = response_logps(tiny.model, encoder.batch(examples))
    for row, example in enumerate(examples):
        alone = response_logps(tiny.model, encoder.batch([example]))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=0)


def test_logps_equal_those_of_the_whole_sequence_through_the_model(tiny, examples):
    batch = Encoder(tiny.processor).batch(examples[3:4])
    tiny.model.eval()
    ids = batch.inputs["input_ids"]
    labels = torch.full_like(ids, IGNORE)
    labels[:, -batch.labels.shape[1] :] = batch.labels
    naive = token_logps(*shifted(tiny.model(**batch.inputs).logits, labels))
    torch.testing.assert_close(
        response_logps(tiny.model, batch)[0], naive[0, -batch.labels.shape[1] :], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("layout", ["rows", "tree"])
def test_text_alone_and_images_mix_in_a_batch(layout, tiny, examples):
    tiny.model.eval()
    encoder = Encoder(tiny.processor, layout=layout)
    alone = replace(examples[1], images=())
    mixed = response_logps(tiny.model, encoder.batch([examples[0], alone, examples[2]]))[1]
    expected = response_logps(tiny.model, encoder.batch([alone]))[0]
    torch.testing.assert_close(mixed[: len(expected)], expected, atol=1e-5, rtol=0)
    assert "pixel_values" not in encoder.batch([alone]).inputs


def test_padding_scores_nothing(tiny, examples):
    batch = Encoder(tiny.processor).batch(examples)
    assert response_logps(tiny.model, batch)[~batch.mask].abs().max() == 0


def test_lengths_counted_without_images_are_those_of_the_batch(tiny, examples):
    for limit in (None, 4):
        encoder = Encoder(tiny.processor, limit)
        assert encoder.response_lengths(examples) == encoder.batch(examples).mask.sum(1).tolist()


def test_an_image_with_many_responses_has_several_rows(tiny, examples, monkeypatch):
    tiny.model.eval()
    encoder = Encoder(tiny.processor, layout="tree")
    many = [replace(examples[0], response=e.response) for e in examples]
    whole = encoder.batch(many)
    monkeypatch.setattr(layout, "BRANCH_TOKENS", 40)
    parts = encoder.batch(many)
    assert len(whole.inputs["input_ids"]) == 1 < len(parts.inputs["input_ids"]) < len(many)
    torch.testing.assert_close(response_logps(tiny.model, parts), response_logps(tiny.model, whole), atol=1e-5, rtol=0)


def test_an_unknown_layout_is_named(tiny):
    with pytest.raises(UserError, match=r"layout: 'bush' is neither rows nor tree"):
        Encoder(tiny.processor, layout="bush")
