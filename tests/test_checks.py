"""What stops a training that would run but train wrongly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from fitting import LORA, beside, fit, preference, sft

from rationale.artifacts import UserError
from rationale.models.checks import check_end, check_image_tokens, check_rows
from rationale.models.encode import Encoder
from rationale.models.vlm import freeze, load
from rationale.schema import RowError
from rationale.training.checks import check_cut, part_of


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
    sft(tiny, [replace(e, images=()) for e in examples], tmp_path)


def test_a_part_is_named_alike_with_and_without_adapters():
    assert part_of("model.vision_tower.layers.0.weight") == "model.vision_tower"
    assert part_of("base_model.model.model.vision_tower.layers.0.lora_A.weight") == "model.vision_tower"


def trained_with(vlm, examples, out, nosy):
    """A preference training beside which another callback acts."""
    module, data = preference(vlm, examples, "frozen")
    fit(module, data, out, beside(nosy), save_every=1)


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
    assert check_cut(encoder, examples, max(allowed, cut / len(examples)), "sft") == {"truncated": cut}


def test_rows_cut_more_often_than_allowed_stop_before_training(tiny, examples):
    with pytest.raises(UserError, match=r"8 of 8 responses are longer than 2 tokens .* raise sft\.max_response_tokens"):
        check_cut(Encoder(tiny.processor, 2), examples, 0.9, "sft")


def test_special_tokens_that_a_row_s_texts_spell_are_text(tiny, examples):
    """The ids of the prompt are those of the row without them but for what the words themselves add."""
    encoder, marks = Encoder(tiny.processor), ("<image>", "</s>", "<|assistant|>")
    special = torch.tensor(tiny.tokenizer.convert_tokens_to_ids(list(marks)))
    spelled = replace(examples[0], prompt="".join(marks) + examples[0].prompt, response="".join(marks))
    check_image_tokens(tiny, encoder, [spelled])
    counts = [torch.isin(encoder.prompts([e])["input_ids"], special).sum() for e in (examples[0], spelled)]
    assert counts == [16 + 1, 16 + 1]  # (64 / 16)^2 of the image, and the template's
    (ids,) = encoder.responses([spelled])
    assert tiny.tokenizer.decode(ids[:-1]) == spelled.response
    assert torch.isin(torch.tensor(ids), special).sum() == 1  # the end


def test_a_template_that_leaves_images_out_is_found(tiny, examples, monkeypatch):
    encoder = Encoder(tiny.processor)
    monkeypatch.setattr(
        encoder, "prompts", lambda rows: Encoder.prompts(encoder, [replace(e, images=()) for e in rows])
    )
    with pytest.raises(RowError, match="0 image tokens in the prompt, 0 for"):
        check_image_tokens(tiny, encoder, examples)


def test_more_features_than_image_tokens_are_found_before_the_first_step(tiny, examples):
    tiny.processor.num_additional_image_tokens = 0
    with pytest.raises(UserError, match=r"15 image tokens for .* makes 16 features.*num_additional_image_tokens: 1"):
        check_rows(tiny, Encoder(tiny.processor), examples)


def test_a_model_that_takes_one_image_a_prompt_is_named_with_the_way_out(tiny, examples):
    several = replace(examples[0], images=examples[0].images + examples[-1].images)
    check_image_tokens(tiny, Encoder(tiny.processor), [*examples, several])
    template = tiny.processor.chat_template
    tiny.processor.chat_template = template.replace("<image>", "{% if loop.first %}<image>{% endif %}")
    with pytest.raises(UserError, match=r"\(llava\).* one image a prompt.*dataset\.skip=\[several_images\]"):
        check_image_tokens(tiny, Encoder(tiny.processor), [*examples, several])


@pytest.mark.parametrize("image", [True, False], ids=["image", "text alone"])
def test_a_row_is_as_long_as_the_model_reads_and_no_longer(image, tiny, examples):
    encoder, config = Encoder(tiny.processor), tiny.model.config.get_text_config()
    rows = [e if image else replace(e, images=()) for e in examples]
    longest = max(len(encoder.prompts([e])["input_ids"][0]) + len(encoder.responses([e])[0]) for e in rows)
    config.max_position_embeddings = longest
    check_rows(tiny, encoder, rows)
    config.max_position_embeddings = longest - 1
    with pytest.raises(RowError, match=rf"{longest} tokens with its images and response, and .* reads {longest - 1}"):
        check_rows(tiny, encoder, rows)


def test_tokens_that_are_yet_to_be_made_count(tiny, examples):
    encoder = Encoder(tiny.processor)
    room = 1024 - len(encoder.prompts(examples[:1])["input_ids"][0])  # max_position_embeddings of the tiny model
    check_rows(tiny, encoder, examples[:1], [room])
    with pytest.raises(RowError, match="1025 tokens"):
        check_rows(tiny, encoder, examples[:1], [room + 1])


def test_an_end_that_does_not_end_generation_is_refused(tiny):
    check_end(tiny, Encoder(tiny.processor))
    tiny.model.generation_config.eos_token_id = [0]
    with pytest.raises(UserError, match=r"trained to end with '</s>' \(2\), and generation ends with \['<pad>'\]"):
        check_end(tiny, Encoder(tiny.processor))
