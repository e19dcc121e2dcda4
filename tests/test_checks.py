"""What stops a training that would run but train wrongly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
from test_training import LORA, beside, csv, preference, sft

from rationale.artifacts import UserError
from rationale.data.encode import Encoder
from rationale.models.vlm import freeze, load
from rationale.schema import RowError
from rationale.training.checks import check_image_tokens, check_rows, part_of
from rationale.training.fit import fit
from rationale.training.optim import Optim


@pytest.fixture
def cut_off(tiny):
    """A model whose image features are constants to the loss."""
    tiny.model.model.multi_modal_projector.register_forward_hook(lambda module, inputs, output: output.detach())
    return tiny


def test_a_part_that_no_gradient_reaches_stops_the_run(cut_off, examples, tmp_path):
    with pytest.raises(UserError, match=r"no gradient reached model\.multi_modal_projector, model\.vision_tower"):
        sft(cut_off, examples, tmp_path)


def test_a_part_that_no_gradient_reaches_may_be_frozen(cut_off, examples, tmp_path):
    freeze(cut_off.model, ["vision_tower", "multi_modal_projector"])
    sft(cut_off, examples, tmp_path)


def test_the_parts_of_the_image_wait_for_a_step_with_one(tiny, examples, tmp_path):
    sft(tiny, [replace(e, image=None) for e in examples], tmp_path)


def test_a_part_is_named_alike_with_and_without_adapters():
    assert part_of("model.vision_tower.layers.0.weight") == "model.vision_tower"
    assert part_of("base_model.model.model.vision_tower.layers.0.lora_A.weight") == "model.vision_tower"


def trained_with(vlm, examples, out, nosy):
    """A preference training beside which another callback acts."""
    module, data = preference(vlm, examples, "frozen")
    fit(vlm, module, data, beside(nosy), csv, Optim(lr=1e-3), out, save_every=1)


def test_a_reference_that_moves_stops_the_run(tiny, examples, tmp_path):
    class Nosy(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            next(module.frozen.parameters()).data.add_(1e-3)

    with pytest.raises(RuntimeError, match=r"1 frozen parameters moved, first frozen\.model"):
        trained_with(tiny, examples, tmp_path, Nosy())


def test_a_frozen_part_that_moves_late_is_found_at_the_end(tiny, examples, tmp_path):
    class Nosy(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 3:
                module.policy.model.vision_tower.post_layernorm.weight.data[0] += 1e-6

    freeze(tiny.model, ["vision_tower"])
    with pytest.raises(RuntimeError, match="frozen parameters moved"):
        trained_with(tiny, examples, tmp_path, Nosy())
    assert not (tmp_path / "model").exists()


def test_weights_in_bfloat16_without_a_float32_copy_are_refused(tiny_dir, examples, tmp_path):
    with pytest.raises(UserError, match=r"to be trained are bfloat16 .* set model\.dtype=float32"):
        sft(load(str(tiny_dir), dtype="bfloat16"), examples, tmp_path)


def test_adapters_on_a_bfloat16_model_train(tiny_dir, examples, tmp_path):
    sft(load(str(tiny_dir), dtype="bfloat16", lora=LORA), examples, tmp_path)


@pytest.mark.parametrize(("limit", "allowed"), [(6, 0.5), (4, 1.0), (None, 0.0)])
def test_rows_cut_no_more_often_than_allowed_pass_and_are_counted(limit, allowed, tiny, examples):
    encoder = Encoder(tiny.processor, limit)
    lengths = [len(encoder.tokenizer(e.response)["input_ids"]) for e in examples]
    cut = 0 if limit is None else sum(n > limit for n in lengths)
    assert check_rows(encoder, examples, max(allowed, cut / len(examples)), "sft") == {"truncated": cut}


def test_rows_cut_more_often_than_allowed_stop_before_training(tiny, examples):
    with pytest.raises(UserError, match=r"8 of 8 responses are longer than 2 tokens .* raise sft\.max_response_tokens"):
        check_rows(Encoder(tiny.processor, 2), examples, 0.9, "sft")


def test_the_image_s_mark_in_a_question_is_found(tiny, examples):
    check_image_tokens(Encoder(tiny.processor), examples)
    examples[5] = replace(examples[5], prompt=f"What is {tiny.processor.image_token}?")
    with pytest.raises(RowError, match=f"{examples[5].question_id}: the prompt's text holds '<image>'"):
        check_image_tokens(Encoder(tiny.processor), examples)


def test_a_template_that_leaves_images_out_is_found(tiny, examples, monkeypatch):
    encoder = Encoder(tiny.processor)
    monkeypatch.setattr(
        encoder, "prompts", lambda rows: Encoder.prompts(encoder, [replace(e, image=None) for e in rows])
    )
    with pytest.raises(RowError, match="0 image tokens in the prompt, 0 for"):
        check_image_tokens(encoder, examples)
