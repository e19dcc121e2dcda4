"""Published checkpoints' own processors: what is asked and answered has transformers' own token ids."""

from __future__ import annotations

import json
import re
from copy import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from checking import page
from hub import (
    DOCLING,
    FOLDERS,
    HUB,
    INTERNVL,
    LLAMA3,
    MISTRAL,
    ONEVISION,
    QWEN2,
    QWEN3,
    QWEN25,
    SMOLVLM,
    SMOLVLM2,
    processor_of,
    tiny_checkpoint,
)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoConfig, GenerationConfig

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.models.batch import Example
from rationale.models.checks import check_end, check_rows, image_tokens, log_unfollowed
from rationale.models.encode import Encoder, special_tokens, turn_of
from rationale.models.families import obstacle
from rationale.models.vlm import VLM, configure, load
from rationale.schema import RowError

pytestmark = pytest.mark.skipif(not (HUB / MISTRAL).is_dir(), reason="RATIONALE_HUB_FILES names no processors")
QUESTION, ANSWER = "Which bar is taller,\n  A or B?", "The left bar is taller.\n### Answer: A"


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_whole_check_passes_for_a_tiny_model_of_every_checkpoint(folder, tmp_path, capsys):
    model = partial(load, str(tiny_checkpoint(folder, tmp_path / "model")))
    out = page(capsys, model, frozen_parts=["vision_tower", "multi_modal_projector"])
    assert out.count("0.6931 (log 2 is 0.6931)") == 2 and "2 of 2 texts are those of transformers' generate" in out


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two images of uneven shape, and a question without one between them."""
    folder = tmp_path_factory.mktemp("images")
    images = []
    for name, size in (("wide", (90, 60)), ("high", (64, 200))):
        images.append(folder / f"{name}.png")
        Image.effect_noise(size, 60).convert("RGB").save(images[-1])
    images = tuple(images)
    return [
        Example("one", images[:1], QUESTION, ANSWER), Example("none", (), "Is 2 even?", "Yes."),
        Example("two", images[1:], "What?", "It is."),
    ]  # fmt: skip


def theirs(processor, rows):
    """What transformers' own chat call makes of the rows' prompts."""
    images = [[{"type": "image", "image": Image.open(image).convert("RGB")} for image in e.images] for e in rows]
    conversations = [
        [{"role": "user", "content": [*image, {"type": "text", "text": e.prompt}]}]
        for e, image in zip(rows, images, strict=True)
    ]
    kwargs = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs=kwargs
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_prompts_are_transformers_own_alone_and_in_a_mixed_batch(folder, rows):
    processor = processor_of(folder)
    for asked in (rows[:1], rows[1:2], rows):
        own, expected = Encoder(processor).prompts(asked), theirs(processor, asked)
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[name], torch.as_tensor(expected[name])) for name in own)
        if (bos := processor.tokenizer.bos_token_id) is not None and bos != processor.tokenizer.pad_token_id:
            assert ((own["input_ids"] == bos).sum(1) <= 1).all() or folder == DOCLING  # there it begins every turn


@pytest.mark.parametrize("folder", FOLDERS)
def test_several_images_have_the_tokens_of_each_alone_at_their_places(folder, rows):
    encoder, mark = Encoder(processor_of(folder)), processor_of(folder).image_token
    one, two = rows[0].images, rows[2].images

    def counts(example, *words):
        """Image tokens between the words of a prompt."""
        (text,) = encoder.tokenizer.batch_decode(encoder.prompts([example])["input_ids"])
        parts = re.split("|".join(words), text) if words else [text]
        return [part.count(mark) for part in parts]

    alone = [counts(Example("q", shown, "Why?", ""))[0] for shown in (one, two)]
    if folder == ONEVISION:  # which cuts none of several into tiles
        alone = [27 * 27 + 1] * 2
    within = Example("q", one + two, "First <image 2>here, <image 1>there.", "")
    assert counts(within, "First", "here", "there") == [0, alone[1], alone[0], 0]
    assert counts(replace(within, prompt="Second: <image 2>here."), "Second", "here") == [alone[0], alone[1], 0]
    assert counts(replace(within, prompt="Both are here."), "Both") == [sum(alone), 0]
    if folder in (ONEVISION, MISTRAL, QWEN2, QWEN25, QWEN3):  # by size; the others count marks between tiles too
        assert image_tokens(encoder.processor, [one + two, ()]) == [sum(alone), 0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_response_has_the_tokens_of_one_string_with_its_prompt(folder, rows):
    """Of prompt, the space that the template's assistant turn begins with, response and end."""
    encoder, tokenizer = Encoder(processor_of(folder)), processor_of(folder).tokenizer
    example = Example("q", (), QUESTION, ANSWER)
    whole = encoder.render(example) + encoder.turn.lead + ANSWER + encoder.turn.end
    expected = tokenizer(whole, add_special_tokens=folder == MISTRAL)["input_ids"]
    prompt = encoder.prompts([example])["input_ids"][0].tolist()
    assert prompt + encoder.responses([example])[0] == expected


@pytest.mark.parametrize(
    ("folder", "lead", "first"),
    [(SMOLVLM, " ", " The"), (SMOLVLM2, " ", " The"), (MISTRAL, " ", "The"), (QWEN2, "", "The")],
)
def test_the_space_of_the_assistant_s_turn_belongs_to_the_response(folder, lead, first):
    encoder = Encoder(processor_of(folder))
    (ids,) = encoder.responses([Example("q", (), "Why?", "The cat")])
    assert encoder.turn.lead == lead
    assert encoder.tokenizer.decode(ids[:1]) == first


def test_a_template_whose_turn_joins_other_tokens_than_it_asks_with_leaves_the_response_as_asked():
    """Llama 3's for LLaVA-NeXT asks with two new lines and answers after a third, which are one token together."""
    told = json.loads((HUB / LLAMA3 / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    tokenizer = processor_of(QWEN2).tokenizer  # splits new lines as Llama 3's
    render = partial(tokenizer.apply_chat_template, chat_template=told, tokenize=False)
    turn = turn_of(SimpleNamespace(tokenizer=tokenizer, apply_chat_template=render))
    assert (turn.before[-2:], turn.lead) == ("\n\n", "")


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_text_spells_never_becomes_a_special_token(folder, rows):
    encoder, tokenizer = Encoder(processor_of(folder)), processor_of(folder).tokenizer
    special = special_tokens(tokenizer)
    ids = torch.tensor(list(special.values()))
    words = [t for t in special if "reserved" not in t]
    spelled = [Example(t, (), f"Is it {t}, or{t}?", f"It is {t}.", ended=False) for t in words]
    bare = encoder.prompts([Example("q", (), "Is it , or?", "")])["input_ids"]
    for example, prompt in zip(spelled, encoder.prompts(spelled)["input_ids"], strict=True):
        kept = prompt[int((prompt != tokenizer.pad_token_id).nonzero()[0]) :]
        assert torch.isin(kept, ids).sum() == torch.isin(bare, ids).sum()
        text = tokenizer.decode([i for i in kept.tolist() if i not in special.values()])
        assert text.replace(" ", "").count(example.question_id.replace(" ", "")) == 2
    said = encoder.responses(spelled)
    assert not any(torch.isin(torch.tensor(row), ids).any() for row in said)
    assert [tokenizer.decode(row).strip() for row in said] == [e.response for e in spelled]


def test_an_image_s_mark_in_a_question_is_text_beside_the_image(rows):
    encoder = Encoder(processor_of(MISTRAL))
    asked = [rows[0], Example("marked", rows[0].images, "What is <image>, and </s>?", "")]
    inputs = encoder.prompts([asked[1], rows[1]])
    count = (encoder.prompts(asked[:1])["input_ids"] == encoder.processor.image_token_id).sum()
    assert (inputs["input_ids"] == encoder.processor.image_token_id).sum() == count > 0
    assert (inputs["input_ids"] == encoder.tokenizer.eos_token_id).sum() == 0
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert encoder.tokenizer.decode(inputs["input_ids"][0, -25:]).endswith("What is <image> , and </s> ? [/INST]")


SIZES = ((64, 64), (336, 336), (1344, 336), (2000, 100), (3000, 2000))  # of images
QWEN2_TOKENS = (4, 144, 576, 284, 43 * 29)  # of 28 x 28 pixels each, at most 1,280
QWEN3_TOKENS = (64, 100, 420, 186, 43 * 29)  # of 32 x 32, at least 64
INTERNVL_TOKENS = (256, 256, 5 * 256, 13 * 256, 7 * 256)  # tiles of 448, and the whole where there are several
SMOLVLM_TOKENS = (17 * 64, 17 * 64, 5 * 64, 5 * 64, 13 * 64)  # tiles of 512 in an image of 2,048, and the whole
PROMISED = {  # image tokens of each size; the files of one size of model stand in for the others
    ("qwen2_vl_2b", QWEN2): QWEN2_TOKENS, ("qwen2_vl_7b", QWEN2): QWEN2_TOKENS, ("qwen2_5_vl", QWEN25): QWEN2_TOKENS,
    ("qwen3_vl_2b", QWEN3): QWEN3_TOKENS, ("qwen3_vl_4b", QWEN3): QWEN3_TOKENS, ("qwen3_vl_8b", QWEN3): QWEN3_TOKENS,
    ("internvl3_1b", INTERNVL): INTERNVL_TOKENS, ("internvl3_2b", INTERNVL): INTERNVL_TOKENS,
    ("internvl3_8b", INTERNVL): INTERNVL_TOKENS,
    ("smolvlm_256m", SMOLVLM): SMOLVLM_TOKENS, ("smolvlm_500m", SMOLVLM): SMOLVLM_TOKENS,
    ("smolvlm2_256m", SMOLVLM2): SMOLVLM_TOKENS, ("smolvlm2_500m", SMOLVLM2): SMOLVLM_TOKENS,
    ("granite_docling_258m", DOCLING): SMOLVLM_TOKENS,
    # A whole of 24 x 24, and the tiles' patches that show something, each row with a mark of its end.
    ("llava_v1_6_mistral_7b", MISTRAL): (1176, 1176, 1890, 868, 24 * 24 + 48 * 32 + 32),
    ("llava_next_llama3_8b", MISTRAL): (1176, 1176, 1890, 868, 24 * 24 + 48 * 32 + 32),
    # The last: 6 x 4 tiles of 27 x 27, shrunk to the area of nine.
    ("llava_onevision", ONEVISION): (1485, 1485, 3672, 2196, 27 * 27 + 66 * (99 + 1)),
}  # fmt: skip
presets = pytest.mark.parametrize(("preset", "folder"), PROMISED, ids=lambda value: value)


def preset_of(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [f"model={name}"]).model


def configured(preset, folder):
    """The real processor with the preset's settings."""
    processor = copy(processor_of(folder))
    configure(processor, OmegaConf.to_container(preset_of(preset).processor or OmegaConf.create()))
    return processor


@presets
def test_a_preset_gives_images_the_tokens_that_it_promises(preset, folder, tmp_path):
    examples = []
    for width, height in SIZES:
        examples.append(Example("q", (tmp_path / f"{width}.png",), "Why?", ""))
        Image.new("RGB", (width, height), "white").save(examples[-1].images[0])
    encoder = Encoder(configured(preset, folder))
    found = [(encoder.prompts([e])["input_ids"] == encoder.processor.image_token_id).sum().item() for e in examples]
    assert tuple(found) == PROMISED[preset, folder]


@presets
def test_a_preset_names_the_family_of_its_checkpoint(preset, folder):
    told = json.loads((HUB / folder / "config.json").read_text(encoding="utf-8"))
    assert preset_of(preset).family == told["model_type"]


@pytest.mark.parametrize("folder", [*FOLDERS, LLAMA3])
def test_the_prefix_of_every_checkpoint_here_can_be_shared(folder):
    """By its config.json: the language model inside, its windows and its layers."""
    assert obstacle(SimpleNamespace(config=AutoConfig.from_pretrained(HUB / folder))) is None


@presets
def test_prompts_with_a_preset_s_settings_are_transformers_own(preset, folder, rows):
    processor = configured(preset, folder)
    own, expected = Encoder(processor).prompts(rows[:1]), theirs(processor, rows[:1])
    assert torch.equal(own["input_ids"], torch.as_tensor(expected["input_ids"]))


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_checkpoint_loads_and_takes_rows_up_to_its_positions(folder, rows, tmp_path):
    """Real class and files, random weights: image tokens are as many as features, and what ends a response ends
    generation; of the positions that the longest row takes one less is too few."""
    vlm = load(str(tiny_checkpoint(folder, tmp_path / "model")))
    encoder = Encoder(vlm.processor)
    check_end(vlm, encoder)
    rows = [*rows, Example("both", rows[0].images + rows[2].images, QUESTION, ANSWER)]
    longest = max(len(encoder.prompts([e])["input_ids"][0]) + len(encoder.responses([e])[0]) for e in rows)
    text = vlm.model.config.get_text_config()
    text.max_position_embeddings = longest
    check_rows(vlm, encoder, rows)
    text.max_position_embeddings = longest - 1
    with pytest.raises(RowError, match=rf"^both: {longest} tokens .* 1 of 4 rows are longer"):
        check_rows(vlm, encoder, rows)


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    """A LLaVA-NeXT checkpoint with the processor_config.json of a copy of the paper's: no word of the class token."""
    told = (HUB / LLAMA3 / "processor_config.json").read_text(encoding="utf-8")
    return str(tiny_checkpoint(MISTRAL, tmp_path_factory.mktemp("copy"), processor_config=told))


def test_one_image_token_too_few_is_found_before_the_first_step_with_the_remedy(silent, rows):
    """90 x 60 pixels are a whole of 24 x 24 patches, and two tiles of which 36 x 24 show something, with 24 marks of a
    new line: 1,464."""
    vlm = load(silent)
    with pytest.raises(UserError, match=r"1463 image tokens .* makes 1464 features.*num_additional_image_tokens: 1"):
        check_rows(vlm, Encoder(vlm.processor), rows)
    vlm = load(silent, processor={"num_additional_image_tokens": 1})
    check_rows(vlm, Encoder(vlm.processor), rows)


def test_an_end_that_does_not_end_generation_is_refused_by_name(silent):
    vlm = load(silent)
    vlm.model.generation_config.eos_token_id = [1]
    with pytest.raises(
        UserError, match=r"trained to end with '</s>' \(2\), and generation ends with \['<s>'\] \(\[1\]\)"
    ):
        check_end(vlm, Encoder(vlm.processor))


@pytest.mark.parametrize(
    ("folder", "said"), [(QWEN25, "repetition_penalty=1.05, top_k=1"), (QWEN2, "top_k=1"), (INTERNVL, None)]
)
def test_what_generation_config_asks_for_and_is_not_followed_is_named(folder, said, caplog):
    model = SimpleNamespace(generation_config=GenerationConfig.from_pretrained(HUB / folder))
    log_unfollowed(VLM(model, None, folder))
    assert [f"{folder}: its generation_config asks for {said}, which" in r.message for r in caplog.records] == (
        [True] if said else []
    )
