"""Does this checkpoint do, on this machine, what the method needs of it? One page; the first thing wrong ends it."""

from __future__ import annotations

import io
import math
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from rationale.artifacts import InputPath, UserError, main_process
from rationale.endpoints.generator import Served
from rationale.endpoints.parity import compare
from rationale.images import store
from rationale.models.batch import Batch, Example
from rationale.models.checks import check_end, check_image_tokens, image_token
from rationale.models.device import counts_memory, device_of, moved, name_of, use
from rationale.models.encode import Encoder
from rationale.models.families import LANGUAGE, PROJECTOR, VISION, base_of, is_in
from rationale.models.generate import generate
from rationale.models.local import Local
from rationale.models.logps import computing, response_logps
from rationale.models.prefill import trained_logps
from rationale.models.prefix import layout_for
from rationale.models.response import response_example
from rationale.models.towers import read_once
from rationale.models.vlm import VLM, freeze
from rationale.objectives.dpo import Objective
from rationale.objectives.logprobs import token_logps
from rationale.planning import flops, memory
from rationale.planning.sizes import Rows, sizes_of
from rationale.planning.table import GIB, Hardware
from rationale.prompts import with_answer
from rationale.provenance import versions
from rationale.schema import Question
from rationale.settings import Count, typed
from rationale.sources import tasks
from rationale.stages.inputs import questions_by_id
from rationale.training.dpo import DPOModule, PairBatch, dpo_data
from rationale.training.plan import Plan, plan
from rationale.training.settings import DPOSettings
from rationale.training.sft import SFTModule, sft_data
from rationale.training.strategy import check_place

SIZES = ((64, 64), (336, 336), (1344, 336), (2000, 100))  # of images: square, small and large, wide, very wide
# How far log p of a token (nats) and a gradient (relative to its norm) may lie apart, by the bits that are computed in.
LIMITS = {32: (1e-3, 1e-3), 16: (0.25, 0.1)}


@typed
def run(
    model: Callable[..., VLM],
    questions: InputPath | None,
    settings: DPOSettings,
    max_new_tokens: Count,
    generator: Callable[..., Local | Served],
    hardware: Hardware,
    device: str = "auto",
) -> None:
    """Print the page; UserError with the first thing that is wrong, and what to do.

    `questions` is a prepared folder, of which the rows with the largest images are taken; null draws some. `settings`
    are DPO's, `hardware` what the plan is made for. A served `generator` is held against the model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        rows, folder = some_questions(questions, Path(scratch))
        page = _Page(generator, rows, folder, settings, max_new_tokens, use(device_of(device)))
        say(page.machine(), page.loading(model), page.prompt(), page.image_tokens())
        with read_once(page.vlm.model):
            say(page.layouts(), page.greedy(), page.served(), page.references())
        say(page.steps(hardware), ["All of it is as it should be."])


def say(*parts: Iterable[str]) -> None:
    for line in chain(*parts):
        if main_process():
            print(line, flush=True)


def some_questions(folder: str | None, scratch: Path) -> tuple[list[Question], Path]:
    """Two questions about each of two images: the largest of `folder` and the smallest, or drawn ones."""
    if folder is None:
        drawn = tasks.mini({"train": 1}, questions_per_image=2, held_out_per_image=0, seed=0)
        asked = [replace(q, images=[store(strip(data), suffix, scratch)]) for q, ((data, suffix),) in drawn]
    else:
        asked = [q for q in questions_by_id(folder).values() if q.images and q.kind != "open"]
    root = scratch if folder is None else Path(folder)
    if not asked:
        raise UserError(f"check.questions={folder}: no question about an image; run stage=prepare, or set it to null")
    about = {q.shown: q.files(root) for q in asked}
    sizes = {shown: sum(math.prod(Image.open(file).size) for file in files) for shown, files in about.items()}
    ordered = sorted(sizes, key=lambda shown: (-sizes[shown], shown))
    chosen = [[q for q in asked if q.shown == shown][:2] for shown in dict.fromkeys((ordered[0], ordered[-1]))]
    return [q for about in chosen for q in about], root


def strip(data: bytes) -> bytes:
    """The upper quarter of an image: few tiles, where a model cuts images into tiles."""
    image, out = Image.open(io.BytesIO(data)), io.BytesIO()
    image.crop((0, 0, image.width, image.height // 4)).save(out, "PNG")
    return out.getvalue()


@dataclass
class _Page:
    """The lines of the page, part by part; each part raises where something is wrong."""

    generator: Callable[..., Local | Served]
    rows: list[Question]
    folder: Path
    settings: DPOSettings
    max_new_tokens: int
    device: torch.device

    def computing(self) -> AbstractContextManager:
        return computing(self.settings.precision, self.device)

    def limits(self) -> tuple[float, float]:
        half = not self.settings.precision.startswith("32") or base_of(self.vlm.model).dtype.itemsize < 4
        return LIMITS[16 if half else 32]

    def machine(self) -> Iterator[str]:
        kernels, device = torch.backends.cpu.get_cpu_capability(), name_of(self.device)
        yield f"machine: {platform.machine()}, {torch.get_num_threads()} threads, {kernels}; device {device}"
        yield "packages: " + ", ".join(f"{name} {version}" for name, version in versions().items())

    def loading(self, model: Callable[..., VLM]) -> Iterator[str]:
        begun = time.monotonic()
        self.vlm = model()
        self.vlm.model.to(self.device)
        base = base_of(self.vlm.model)
        text = base.config.get_text_config().model_type
        number, took = sum(p.numel() for p in base.parameters()), time.monotonic() - begun
        yield (
            f"checkpoint: {self.vlm.source}, {base.config.model_type} with {text}, {number / 1e6:,.1f}M parameters in "
            f"{str(base.dtype).removeprefix('torch.')}, {self.settings.precision}; read in {took:.0f} s"
        )
        self.encoder = self.encoder_in(layout_for(self.vlm.model, "auto"))  # which says why where it is rows
        if self.encoder.layout == "tree":
            yield "layout: tree, the prompt once for all its responses"
        self.answer = self.generator(lambda: self.vlm)

    def encoder_in(self, layout: str) -> Encoder:
        return Encoder(self.vlm.processor, self.settings.truncate.tokens, layout)

    def examples(self) -> list[tuple[Example, Example]]:
        """A right and a wrong response to each question, unlike in length."""

        def example(row: Question, text: str) -> Example:
            key = (row.question_id, "cot", text, True, ())
            return response_example(key, row, self.folder, self.settings.truncate)

        right, wrong = "Step by step, this is what is seen.", with_answer("I guess.", "none")
        return [(example(row, with_answer(right, row.answer)), example(row, wrong)) for row in self.rows]

    def prompt(self) -> Iterator[str]:
        """What the model reads, and where prompt and response meet."""
        example, tokenizer = self.examples()[0][0], self.vlm.tokenizer
        yield f"prompt: {self.encoder.render(example)!r}"
        (ids,) = self.encoder.prompts([example])["input_ids"].tolist()
        (response,) = self.encoder.responses([example])

        def shown(tokens: list[int]) -> str:
            return " ".join(f"{token!r}" for token in tokenizer.convert_ids_to_tokens(tokens))

        yield f"  first tokens: {shown(ids[:4])}; last: {shown(ids[-4:])}"
        yield f"  then the response: {shown(response[:4])} ... {shown(response[-3:])}"
        begins = tokenizer.bos_token_id
        if ids[:2] == [begins, begins]:
            raise UserError(f"a prompt begins with two of {tokenizer.bos_token!r}; mend the template")
        check_end(self.vlm, self.encoder)

    def image_tokens(self) -> Iterator[str]:
        """Image tokens in the prompt are as many as the model's features."""
        counts = []
        with tempfile.TemporaryDirectory() as scratch:
            images = [Path(scratch) / f"{width}x{height}.png" for width, height in SIZES]
            for image, size in zip(images, SIZES, strict=True):
                Image.new("RGB", size, (200, 120, 40)).save(image)
            for shown in (*((image,) for image in images), self.rows[0].files(self.folder)):
                example = Example(self.rows[0].question_id, shown, "What is this?", "")
                (tokens,) = check_image_tokens(self.vlm, self.encoder, [example])
                sizes = " and ".join("{}x{}".format(*Image.open(image).size) for image in shown)
                counts.append(f"{sizes}: {tokens}")
        yield f"image tokens: {', '.join(counts)} (the largest image)"

    def layouts(self) -> Iterator[str]:
        """Log-probs and gradients of both layouts against transformers' own forward pass of one unpadded row each."""
        pairs = self.examples()
        model, flat = self.vlm.model.eval(), [*pairs[0], pairs[-1][0]]  # of both images
        watched = some_parameters(model)
        expected, slopes = self.alone(flat, watched)
        most, steepest = self.limits()
        for layout in dict.fromkeys(("rows", self.encoder.layout)):
            batch = self.encoder_in(layout).batch(flat).to(self.device)
            with self.computing():
                logps = response_logps(model, batch)
            gradients = torch.autograd.grad(logps.sum(), watched)
            kept = [row[mask] for row, mask in zip(logps.detach(), batch.mask, strict=True)]
            gap = max((a - b).abs().max().item() for a, b in zip(kept, expected, strict=True))
            turn = max(
                ((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in zip(gradients, slopes, strict=True)
            )
            yield f"{layout} against transformers: log p of a token within {gap:.1e}, gradients within {turn:.1e}"
            if not (gap <= most and turn <= steepest):
                raise UserError(
                    f"layout {layout} gives other values than transformers (limits {most:.0e} and {steepest:.0e}); "
                    "set layout=rows and model.attention=eager, and compare again"
                )

    def alone(self, examples: Iterable[Example], watched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Log-probs of each response, and the gradient of their sum."""
        logps, slopes = [], [torch.zeros_like(p) for p in watched]
        for example in examples:
            inputs = self.encoder_in("rows").batch([example]).inputs
            (labels,) = self.encoder.responses([example])
            with self.computing():
                kept = len(labels) + 1
                logits = self.vlm.model(**moved(inputs, self.device), use_cache=False, logits_to_keep=kept).logits
            found = token_logps(logits[:, :-1], torch.tensor([labels], device=self.device))[0]
            for total, slope in zip(slopes, torch.autograd.grad(found.sum(), watched), strict=True):
                total += slope
            logps.append(found.detach())
        return logps, slopes

    def greedy(self) -> Iterator[str]:
        """What it says, and that transformers' own `generate` says the same."""
        asked, theirs = [chosen for chosen, _ in self.examples()], []
        with self.computing():
            self.said = [group[0] for group in generate(self.vlm, asked, self.max_new_tokens)]
            for example in asked[:2]:
                inputs = moved(self.encoder.prompts([example]), self.device)
                tokens = self.vlm.model.generate(
                    **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, repetition_penalty=1.0
                )[:, inputs["input_ids"].shape[1] :]
                theirs.append(self.vlm.tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
        ours = [said.text for said in self.said[:2]]
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        yield f"greedy: {ours[0]!r:.200}; {same} of {len(ours)} texts are those of transformers' generate"
        if same < len(ours) and self.limits() == LIMITS[32]:
            raise UserError(f"decoding differs from transformers' generate: {ours} against {theirs}")

    def served(self) -> Iterator[str]:
        """What a server says to all of the questions, where one is chosen; of several addresses, what each says."""
        if not isinstance(self.answer, Served):
            return
        asked = [chosen for chosen, _ in self.examples()]
        uncut = Encoder(self.vlm.processor, layout=self.encoder.layout)
        for address in self.answer.addresses:
            if len(self.answer.addresses) > 1:
                yield f"served at {address.url}:"
            alone = self.generator(lambda: self.vlm, base_url=address.url)
            try:
                replies = alone.greedy(asked, self.max_new_tokens)
                # In which precision it computes, a server does not say.
                yield from compare(uncut, partial(self.trained, uncut), asked, replies, self.said, LIMITS[16][0])
            except UserError as error:
                raise UserError(f"{address.url}: {error}") from error

    def trained(self, encoder: Encoder, examples: list[Example]) -> list[list[float]]:
        """log p of each response token by the forward pass of training."""
        with self.computing():
            return trained_logps(self.vlm.model.eval(), encoder, examples)

    def references(self) -> Iterator[str]:
        """The first loss of DPO, against every reference that there is for this model."""
        objective = self.settings.objective
        known = type(objective) is Objective and objective.loss_type == "sigmoid"
        batch = PairBatch(self.encoder.batch(self.examples()[0]).to(self.device), 1, 1)
        with self.computing(), torch.no_grad():
            batch.reference = response_logps(self.vlm.model.eval(), batch.rows)
            for kind in ["frozen", "scored"] + ["adapter_off"] * hasattr(self.vlm.model, "disable_adapter"):
                loss = DPOModule(self.vlm, objective, kind, self.settings.optim, 1).measure(batch)[1]["loss"].item()
                yield f"DPO, reference {kind}: first loss {loss:.4f} (log 2 is {math.log(2):.4f})"
                if known and abs(loss - math.log(2)) > max(0.01, self.limits()[0]):
                    raise UserError(f"the first loss against reference {kind} is {loss:.4f} and not log 2")

    def steps(self, hardware: Hardware) -> Iterator[str]:
        """A step of SFT and one of DPO on the largest image: seconds and peak against the plan's."""
        pair, optim = self.examples()[0], self.settings.optim
        freeze(self.vlm.model, self.settings.frozen_parts)
        data = sft_data(self.encoder, [pair[0]], one_step)
        module = SFTModule(self.vlm, optim, data.plan.num_steps, "token")
        yield f"a step of SFT, of an example: {self.step(module, data, None, hardware)}"
        data = dpo_data(self.encoder, [pair], one_step)
        module = DPOModule(self.vlm, self.settings.objective, "frozen", optim, data.plan.num_steps)
        yield f"a step of DPO, of a pair: {self.step(module, data, 'frozen', hardware)}"

    def step(self, module: pl.LightningModule, data: Any, reference: str | None, hardware: Hardware) -> str:
        """Seconds and peak bytes of one optimizer step in words, beside the plan's."""
        watch, trainer = _Watch(), self.settings.trainer
        running = trainer(
            max_epochs=1, max_steps=1, callbacks=[watch], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
            use_distributed_sampler=False, default_root_dir=tempfile.gettempdir(), inference_mode=False,
        )  # fmt: skip
        check_place(running, trainer)
        running.accumulate_grad_batches = data.accumulate(running.world_size)
        running.fit(module, datamodule=data)
        sizes = sizes_of(self.vlm.model)
        rows = rows_of(watch.batch, image_token(self.vlm), watch.batch.inputs["pixel_values"].numel() // sizes.pixels)
        seconds = flops.training(sizes, rows, False, reference) / hardware.speed
        width = 4 if self.settings.precision.startswith("32") else 2
        kind, where = ("cpu", "the whole process") if self.device.type == "cpu" else ("gpu", "the device")
        planned = memory.held(sizes, rows, kind, 1, width, False, reference).total / GIB
        self.vlm.model.to(self.device)  # Lightning brings it back to the CPU
        peak = "not counted" if watch.peak is None else f"{watch.peak / GIB:.2f} GiB of {where}"
        return f"{watch.seconds:.2f} s (plan {seconds:.2f}), peak {peak} (plan {planned:.2f})"


def one_step(lengths: list) -> Plan:
    return plan(lengths, 1, 1, 1, 0)


def some_parameters(model: nn.Module) -> list[Tensor]:
    """A few weights whose gradients speak for all: the first and last of the language model's queries, and the
    projector's first; of a model with adapters, of those."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    language = [n for n in trained if is_in(model, LANGUAGE, n) and "q_proj" in n]
    projector = [n for n in trained if is_in(model, PROJECTOR, n)]
    others = [n for n in trained if not is_in(model, VISION, n)]
    names = dict.fromkeys([*language[:1], *language[-1:], *projector[:1]] or others[:3])
    return [trained[name] for name in names]


def rows_of(batch: Batch, image_token: int, patches: int) -> Rows:
    """The sizes of a batch as the plan counts them, its longest row for all."""
    ids = batch.inputs["input_ids"]
    image = int((ids == image_token).sum(1).max())
    response = math.ceil(batch.mask.sum().item() / len(batch.labels))
    branches = round(len(batch.labels) / len(ids))
    prompt = max(1, ids.shape[1] - image - branches * response)
    return Rows(len(ids), 1, math.ceil(patches / len(ids)), image, prompt, response, branches)


class _Watch(pl.Callback):
    """Seconds and peak bytes of a step, and its batch."""

    peak: int | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        self.batch = batch.rows
        if counts_memory(module.device):
            torch.accelerator.reset_peak_memory_stats()
        self.begun = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if module.device.type == "cpu":
            self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        else:
            torch.accelerator.synchronize()
        if counts_memory(module.device):
            self.peak = torch.accelerator.max_memory_allocated()
        self.seconds = time.monotonic() - self.begun
