"""Plans against what is there: parameters, operations, what backward keeps, caches, and bytes in two processes."""

from __future__ import annotations

import json
import re
import shlex
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as t
from commands import together
from composing import check, composed
from families import EVERY
from hydra.utils import instantiate
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from rationale.artifacts import UserError
from rationale.models import generate, prefix
from rationale.models.batch import Example
from rationale.models.layout import rows_batch, tree_batch
from rationale.models.logps import response_logps
from rationale.models.prefill import prefill
from rationale.models.vlm import VLM, freeze
from rationale.planning import activations, flops, inference, memory
from rationale.planning.sizes import HEAD, LANGUAGE, Layers, Part, Rows, Sizes, sizes, sizes_of
from rationale.planning.table import Hardware, Tokens
from rationale.tools.small_llava import build_model, build_processor, train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
PAPER = ROOT / "experiments" / "paper"
TOWER = ["vision_tower", "multi_modal_projector"]
IMAGE = 1000  # a token
COUNTS = {"rows": Rows(2, 1, 257, 256, 100, 80), "tree": Rows(1, 1, 257, 256, 100, 80, branches=2)}


def llava(frozen=(), checkpointing=False):
    """256 image tokens, four layers in tower and language model, two query heads for a key."""
    torch.manual_seed(0)
    vision = t.CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, image_size=224, patch_size=14
    )
    text = t.LlamaConfig(
        vocab_size=1024, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    config = t.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-1)
    model = t.LlavaForConditionalGeneration(config).train()
    prefix.enable(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.disable_input_require_grads()  # else a frozen tower would be gone through backward
    freeze(model, frozen)
    return model


def two_responses(layout):
    """To one image and prompt of 100 tokens, 80 tokens each."""

    def prompts(examples):
        ids = torch.tensor([IMAGE] * 256 + list(range(3, 103))).expand(len(examples), -1)
        pixels = torch.rand(len(examples), 3, 224, 224)
        return {"input_ids": ids.clone(), "attention_mask": torch.ones_like(ids), "pixel_values": pixels}

    examples = [Example("q", (Path("0"),), "p", "r")] * 2
    responses = [list(range(3, 83)), list(range(203, 283))]
    if layout == "tree":
        return tree_batch(examples, responses, prompts, IMAGE, 0)
    return rows_batch(examples, responses, prompts, 0)


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor


def kept_for_backward(model, batch):
    """Bytes of the distinct storages, other than parameters', that the graph of a forward holds at its end."""
    kept = weakref.WeakSet()

    def pack(tensor):
        box = Kept(tensor)
        kept.add(box)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        out = response_logps(model, batch)
    storages = {box.tensor.untyped_storage().data_ptr(): box.tensor.untyped_storage().nbytes() for box in kept}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert out.requires_grad
    return sum(size for place, size in storages.items() if place not in own)


def counted(work):
    """Operations by PyTorch's own counter, taught the names of the CPU's attention."""
    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            sdpa_backward_flop_count(g, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        work()
    return counter.get_total_flops()


CASES = [(layout, again, frozen) for layout in COUNTS for again in (False, True) for frozen in ([], TOWER)]


@pytest.mark.parametrize(("layout", "checkpointing", "frozen"), CASES)
def test_operations_are_those_that_pytorch_counts(layout, checkpointing, frozen):
    model, batch, rows = llava(frozen, checkpointing), two_responses(layout), COUNTS[layout]
    found = []
    forward = counted(lambda: found.append(response_logps(model, batch)))
    backward = counted(lambda: found[0].sum().backward())
    model_sizes = sizes_of(model)
    planned = sum(flops.forward(model_sizes, rows).values())
    assert planned == pytest.approx(forward, rel=0.01)
    assert flops.training(model_sizes, rows, checkpointing, None) - planned == pytest.approx(backward, rel=0.01)


@pytest.mark.parametrize(("layout", "checkpointing", "frozen"), CASES)
def test_what_is_kept_for_backward_is_what_was_planned(layout, checkpointing, frozen):
    model = llava(frozen, checkpointing)
    found = kept_for_backward(model, two_responses(layout))
    planned = activations.saved(sizes_of(model), COUNTS[layout], 4, checkpointing, varlen=False)
    assert planned == pytest.approx(found, rel=0.06)


class Flash(torch.autograd.Function):
    """Keeps what `varlen_attn` keeps, and is worth nothing."""

    @staticmethod
    def forward(ctx, query, key, value):
        out, sums = torch.zeros_like(query), torch.zeros(query.shape[:2])
        ctx.save_for_backward(query, key, value, out, sums)
        return out


def test_what_is_kept_for_backward_in_segments_is_what_was_planned(monkeypatch):
    model = llava()
    monkeypatch.setattr(prefix, "kernel_for", lambda *_, **__: lambda q, k, v, *_, **__: Flash.apply(q, k, v))
    found = kept_for_backward(model, two_responses("tree"))
    assert activations.saved(sizes_of(model), COUNTS["tree"], 4, False, varlen=True) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("layout", COUNTS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_kept_under_autocast_is_what_was_planned(layout, checkpointing):
    model, batch = llava(checkpointing=checkpointing), two_responses(layout)
    with torch.autocast("cpu", torch.bfloat16):
        found = kept_for_backward(model, batch)
    copies = 0 if checkpointing else 2 * sum(p.numel() for p in model.parameters() if p.ndim > 1)
    planned = activations.saved(sizes_of(model), COUNTS[layout], 2, checkpointing, varlen=False, autocast=True)
    assert planned + copies == pytest.approx(found, rel=0.1)


def test_the_reference_costs_a_forward_where_a_network_gives_it():
    model, rows = sizes_of(llava()), COUNTS["tree"]
    scored, frozen = (flops.training(model, rows, True, kind) for kind in ("scored", "frozen"))
    assert frozen - scored == pytest.approx(sum(flops.forward(model, rows).values()))


def test_a_tree_has_its_prompt_once():
    assert COUNTS["rows"].tokens == 2 * (256 + 100 + 80)
    assert COUNTS["tree"].tokens == 256 + 100 + 2 * 80
    assert COUNTS["tree"].predicted == COUNTS["rows"].predicted == 160
    assert COUNTS["tree"].attended == 356**2 + 160 * 516


def test_the_papers_model_has_its_parameters():
    found = sizes(str(PAPER / "llava_next_llama3_8b"))
    assert found.total == pytest.approx(8.35e9, rel=1e-3)  # the card of Share4oReasoning/LLaVA-Reasoner-SFT
    assert found.parts[HEAD].total == 128320 * 4096
    frozen = sizes(str(PAPER / "llava_next_llama3_8b"), TOWER)
    assert found.trainable == found.total
    assert frozen.trainable == found.parts[LANGUAGE].total + found.parts[HEAD].total


def test_a_lora_trains_its_two_narrow_matrices():
    model = get_peft_model(llava(), LoraConfig(r=4, target_modules=".*language_model.*q_proj"))
    assert sizes_of(model).trainable == 4 * 4 * (128 + 128)  # layers x r x (in + out)


@pytest.mark.parametrize("name", EVERY)
def test_every_familys_parts_are_found(name):
    model = EVERY[name]().model
    found = sizes_of(model)
    assert found.total == sum(p.numel() for p in model.parameters())
    assert all(found.parts[part].total > 0 for part in (*TOWER, LANGUAGE))


ONE = Layers(1, 1, 1, 1, 1)
BILLION = Sizes({LANGUAGE: Part(10**9, 10**9, 10**9)}, ONE, ONE, 1, 1, (10**9,))


@pytest.mark.parametrize(
    ("trainer", "width", "weights", "gradients", "optimizer", "reference"),
    [
        ("gpu", 2, 4, 4, 8, 4), ("ddp", 4, 4, 4, 8, 4),
        ("zero1", 2, 2, 2, 12 / 8, 2), ("zero2", 2, 2, 2 / 8, 12 / 8, 2),
        ("zero3", 2, 2 / 8, 2 / 8, 12 / 8, 2 / 8), ("zero3_offload", 2, 0, 0, 0, 0),
    ],
)  # fmt: skip
def test_bytes_a_parameter_on_eight_devices(trainer, width, weights, gradients, optimizer, reference):
    held = memory.states(BILLION, trainer, 8, width, copy=True)
    found = [getattr(held, part) / 10**9 for part in ("weights", "gradients", "optimizer", "reference")]
    assert found == pytest.approx([weights, gradients, optimizer, reference])


def test_what_is_offloaded_is_the_hosts():
    assert memory.states(BILLION, "zero3_offload", 8, 2, copy=False).host == pytest.approx(10**9 * (2 + 2 + 8 + 12) / 8)


@pytest.fixture
def endless(monkeypatch):
    monkeypatch.setattr(generate, "end_tokens", lambda model: torch.tensor([-7]))


def two_prompts():
    """Of 356 tokens."""
    ids = torch.tensor([[IMAGE] * 256 + list(range(3, 103))] * 2)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.rand(2, 3, 224, 224)}


READ, SAID = Rows(2, 1, 257, 256, 100, 0), Rows(6, 0, 0, 0, 0, 80)  # three responses to each of two prompts


@torch.inference_mode()
def test_operations_of_sampling_are_those_that_pytorch_counts(endless):
    model, found = llava().eval(), []
    read = counted(lambda: found.append(prefill(model, two_prompts())))
    # 81 tokens are said, and the last is not read.
    said = counted(lambda: generate.decode(model, found[0], torch.tensor([81, 81]), 1.0, 1.0, num_samples=3))
    late = 4 * 4 * 128 * SAID.attended / 2  # the plan counts a response's whole square
    assert inference.operations(sizes_of(model), READ, SAID) == pytest.approx((read, said + late), rel=0.002)


@torch.inference_mode()
def test_operations_of_scoring_are_those_that_pytorch_counts():
    model = llava().eval()
    read = prefill(model, two_prompts()).repeated(torch.tensor([0, 0, 0, 1, 1, 1]))
    tokens = torch.randint(3, 900, (6, 80))
    given = read.decoder_inputs(tokens, torch.ones_like(tokens))
    _, said = inference.operations(sizes_of(model), READ, SAID)
    assert said == pytest.approx(counted(lambda: model(**given)), rel=0.01)


@torch.inference_mode()
def test_a_cache_has_the_bytes_that_were_planned(endless):
    model = llava().eval()
    read = prefill(model, two_prompts())
    generate.decode(model, read, torch.tensor([81, 81]), 1.0, 1.0, num_samples=3)
    early, late = inference.cache(sizes_of(model), READ, SAID, 4)
    assert early == sum(t.nbytes for pair in read.cache.prompts for t in pair)
    assert late == sum(t.nbytes for layer in read.cache.layers for t in (layer.keys, layer.values))
    room = sum(t.nbytes for layer in read.cache.layers for t in layer.room)
    longest = Tokens(tiles=1, tile_tokens=257, image=256, prompt=100, response=80)
    stage = replace(STAGE, responses=3, batch_size=2, unit=3, dtype="float32", longest=longest)
    assert early + late < early + room <= inference.held(sizes_of(model), stage, 2)["cache"] == early + 2 * late


MEAN = Tokens(tiles=1, tile_tokens=1, image=60, prompt=40, response=50)
STAGE = inference.Inference(
    "sample", 2, 10, 4, batch_size=5, unit=4, steps=90, dtype="bfloat16", mean=MEAN, longest=MEAN
)
SLOW = Hardware("slow", 4, memory=3e9, spare=0, peak=1e30, achieved=1, bandwidth=1e30, launch=0)


def test_a_prompt_is_read_once_and_a_response_said_each_time():
    row = inference.outcome(sizes_of(llava()), STAGE, SLOW)
    assert (row["tokens_read"], row["tokens_said"]) == (10 * 100, 10 * 4 * 50)


@pytest.mark.parametrize(
    ("bound", "changed", "seconds"),
    [
        # Two batches of 90 steps, each of which reads 2 GB of weights at 4 GB a second.
        ("bandwidth", {"bandwidth": 4e9}, 2 * 90 / 2),
        # All 2,000 tokens meet 1e9 weights, 1e13 operations a second; so did the 1,000 of the prompts.
        ("operations", {"peak": 2e13, "achieved": 0.5}, 3000 * 2e9 / 1e13),
        ("launches", {"launch": 0.01}, 2 * 90 * 0.01),
    ],
)
def test_the_slowest_of_three_bounds_decoding(bound, changed, seconds):
    model = replace(BILLION, parts=BILLION.parts | dict.fromkeys(TOWER, Part(0, 0, 0)))
    found, slowest = inference.hours(model, STAGE, 5, replace(SLOW, **changed))
    assert slowest == bound and found * 3600 == pytest.approx(seconds, rel=1e-4)


def test_the_largest_batch_is_the_largest_that_fits():
    model = sizes_of(llava())
    hardware = replace(SLOW, memory=2e9)
    largest = inference.outcome(model, STAGE, hardware)["largest_batch_size"]
    one, more = (inference.held(model, STAGE, size)["total"] for size in (largest, largest + 1))
    assert one <= 2e9 < more
    assert inference.outcome(model, STAGE, replace(SLOW, memory=1e5))["largest_batch_size"] == 0


def planned(out, *overrides):
    """The stage's own call, from its config."""
    cfg = composed("stage=plan", *overrides)
    out.mkdir(exist_ok=True)
    instantiate({**OmegaConf.to_container(cfg.stage, resolve=True), "out": out}, _convert_="all")
    return json.loads((out / "plan.json").read_text(encoding="utf-8"))


def brief(found):
    """What the README of experiments/paper shows of a plan."""
    yield "| training | trainer | layout | reference | GiB on a device | fits | hours | examples a second |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found["trainings"]:
        if row["trainer"] == {"SFT": "zero3", "DPO": "zero2"}[row["training"]] and row["reference"] != "adapter_off":
            yield (
                f"| {row['training']} | {row['trainer']} | {row['layout']} | {row['reference'] or '-'} | "
                f"{row['held']['total']:.0f} | {'yes' if row['fits'] else 'no'} | {row['hours']:.1f} | "
                f"{row['examples_per_second']:.0f} |"
            )
    yield ""
    yield f"| hours of | {' | '.join(f'{n} devices' for n in found['hours']['all'])} |".replace(
        "| 1 devices", "| 1 device"
    )
    yield "|---" * 6 + "|"
    for stage, hours in found["hours"].items():
        yield f"| {stage} | {' | '.join(f'{time:.1f}' + '*' * (not fits) for time, fits in hours.values())} |"


def test_the_papers_plan_is_up_to_date(tmp_path):
    """If not: rationale stage=plan scale=paper teacher=openai force=true; copy both files here and `brief` into the
    README."""
    found = planned(tmp_path, "scale=paper", "teacher=openai")
    assert found == json.loads((PAPER / "plan.json").read_text(encoding="utf-8"))
    assert (tmp_path / "plan.md").read_text(encoding="utf-8") == (PAPER / "plan.md").read_text(encoding="utf-8")
    shown = re.search(
        r"<!-- brief -->\n(.*)\n<!-- end -->", (PAPER / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown.group(1).splitlines() == list(brief(found))


def test_the_plan_speaks_of_the_run_that_would_start(tmp_path):
    model = f"plan.path={PAPER / 'llava_next_llama3_8b'}"
    whole = planned(tmp_path / "a", "scale=paper", model, "plan.trainers=[zero3]")["trainings"]
    changed = "sft.batch.gradient_accumulation_steps=16", "model.gradient_checkpointing=false", "dpo.frozen_parts=[]"
    half = planned(tmp_path / "b", "scale=paper", model, "plan.trainers=[zero3]", *changed)["trainings"]
    assert half[0]["steps"] == whole[0]["steps"] // 2
    assert half[0]["held"]["activations"] > 5 * whole[0]["held"]["activations"]
    assert half[-1]["trainable"] == whole[-1]["trainable"]  # a LoRA of the language model alone
    assert half[2]["trainable"] > whole[2]["trainable"]


def test_a_group_counts_as_one_in_a_batch(tmp_path):
    rows = planned(tmp_path, "scale=paper", "plan.trainers=[zero3]", "dpo.group_by=question", "sft.group_by=image")
    found = {
        (row["training"], row["layout"]): (row["rows_per_micro_batch"], row["examples_per_step"])
        for row in rows["trainings"]
    }
    assert found["SFT", "rows"] == (8, 64)
    assert found["SFT", "tree, sft.group_by=image"] == (4, 64)
    assert found["DPO", "tree, dpo.group_by=question"] == (1, 96)


def test_the_hours_are_those_of_the_config_by_number_of_devices(tmp_path):
    less = "sft.layout=tree", "sft.group_by=image", "dpo.reference=scored", "sampling.batch_size=8"
    small = "scale=paper", "plan.trainers=[zero2]", "plan.dpo.references=[frozen]"
    one, other = planned(tmp_path / "a", *small)["hours"], planned(tmp_path / "b", *small, *less)["hours"]
    scored = {"score for dpo.reference=scored"}
    assert other.keys() - one.keys() == scored and not one.keys() - other.keys()
    for hours in (one, other):
        assert hours["all"]["4"][0] == pytest.approx(sum(h["4"][0] for name, h in hours.items() if name != "all"))
        assert hours["sample"]["4"][0] == pytest.approx(hours["sample"]["1"][0] / 4)
    assert all(other[stage]["8"][0] < one[stage]["8"][0] for stage in ("SFT", "DPO", "sample"))
    assert not one["SFT"]["1"][1] and one["SFT"]["8"][1]  # float32 moments of 8B parameters: shared out or not at all
    assert not one["all"]["1"][1] and one["sample"]["1"][1]


def test_a_teacher_with_prices_is_paid_for(tmp_path):
    small = "plan.trainers=[cpu]", "plan.distill={questions: 1000, image: 700, prompt: 300, response: 100}"
    free = planned(tmp_path / "a", *small)["distillation"]
    paid = planned(tmp_path / "b", *small, "teacher=openai_batch")["distillation"]
    assert (free["tokens_in"], free["tokens_out"], free["dollars"]) == (1_000_000, 100_000, None)
    assert paid["dollars"] == pytest.approx((5 + 1.5) / 2)  # 5 and 15 dollars a million, half in batches


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.batch.gradient_accumulation_steps=4", r"a step has 4 micro-batches, which 8 devices cannot share evenly"),
        ("plan.path=nowhere", r"nowhere: neither a folder nor a hub id"),
        ("model/quantization=nf4", r"does not know what 4-bit weights take"),
        ("plan.adapter=null", r"DPO: the reference adapter_off needs a LoRA"),
    ],
)
def test_what_cannot_be_planned_is_refused(override, message, tmp_path):
    with pytest.raises(Exception, match=message) as caught:
        planned(tmp_path, "scale=paper", "plan.trainers=[zero3]", override)
    assert isinstance(caught.value.__cause__ or caught.value, UserError)


def commands(path):
    """The overrides of each `rationale` in a script, its arguments replaced by folders."""
    for line in path.read_text(encoding="utf-8").splitlines():
        found = re.search(r"(?:^| )rationale (.*?)&?$", line)
        if found and not line.startswith("#"):
            yield shlex.split(found.group(1).replace('"$1"', "/rows").replace('"$2"', "/images"))


@pytest.mark.parametrize("name", ["sft.sh", "dpo.sh", "pairs.sh", "two_nodes.sh", "evaluate.sh"])
def test_every_command_of_the_papers_scripts_composes(name):
    found = list(commands(PAPER / name))
    assert len(found) == (PAPER / name).read_text(encoding="utf-8").count("rationale stage=")
    for overrides in found:
        check(composed(*overrides))


def test_the_papers_commands_have_the_papers_numbers():
    (*_, sft), (*_, dpo) = (list(commands(PAPER / name)) for name in ("sft.sh", "dpo.sh"))
    first, second = composed(*sft), composed(*dpo)
    assert (first.trainer.strategy.stage, second.trainer.strategy.stage) == (3, 2)
    assert first.trainer.devices == second.trainer.devices == 8
    assert (first.sft.optim.lr, first.sft.optim.part_lrs) == (5e-6, {"vision_tower": 5e-7})
    assert (second.dpo.optim.lr, second.dpo.objective.beta, second.dpo.truncate.words) == (5e-7, 0.1, 90)
    for cfg, stage in ((first, first.sft), (second, second.dpo)):
        assert stage.batch.micro_batch_size * stage.batch.gradient_accumulation_steps == 32
        assert (stage.epochs, stage.optim.warmup_ratio, stage.optim.weight_decay) == (1, 0.03, 0.0)
        assert cfg.stage.model.gradient_checkpointing and cfg.stage.model.dtype == "bfloat16"
    sft, dpo, *others = (composed(*each) for each in commands(PAPER / "two_nodes.sh"))
    assert sft.trainer.num_nodes == dpo.trainer.num_nodes == 2
    for cfg in (*others, *(composed(*each) for each in commands(PAPER / "pairs.sh"))):
        found = cfg.stage.get("processes")
        assert found is None or (found.devices, found.num_nodes) == (8, 2 if cfg in others else 1)
    for batch in (sft.sft.batch, dpo.dpo.batch):
        assert (
            batch.micro_batch_size * batch.gradient_accumulation_steps == 32
            and batch.gradient_accumulation_steps % 16 == 0
        )


@pytest.fixture(scope="module")
def wide_dir(questions, tmp_path_factory):
    """A LLaVA of 2.7M weights, most of them in matrices that ZeRO-3 shares out and some that it keeps whole."""
    out = tmp_path_factory.mktemp("wide")
    processor = build_processor(train_tokenizer([q.question for q in questions] * 4, 600), image_size=64, patch_size=16)
    model = build_model(processor, vision_width=64, vision_layers=2, width=256, layers=3, heads=4, seed=0)
    VLM(model, processor, "random").save(out)
    return out


def held_by(objective, strategy, model, questions, out):
    """What each of two processes holds in its second step."""
    told = [model, questions, objective, strategy, 2, out]
    done = together([ROOT / "tests" / "planned.py", *told], 2)
    assert done.returncode == 0, done.stderr[-4000:]
    return [SimpleNamespace(**json.loads((out / f"held_{rank}.json").read_text(encoding="utf-8"))) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "trainer"),
    [("dpo", "ddp"), ("dpo", "zero2"), ("sft", "zero3")],
)
def test_two_processes_hold_what_was_planned(objective, trainer, wide_dir, questions_dir, tmp_path):
    strategy = "ddp_find_unused_parameters_true" if trainer == "ddp" else trainer
    expected = memory.states(sizes(str(wide_dir)), trainer, 2, 4, copy=objective == "dpo")
    for found in held_by(objective, strategy, wide_dir, questions_dir, tmp_path):
        for part in ("weights", "gradients", "optimizer", "reference"):
            assert getattr(expected, part) == pytest.approx(getattr(found, part), rel=0.05), part
        total = expected.weights + expected.gradients + expected.optimizer + expected.reference
        assert total == pytest.approx(sum(vars(found).values()), rel=0.02)
