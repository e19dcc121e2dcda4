"""The whole method in one file, from a drawn chart to a DPO model's score: no Hydra, no Lightning, nothing shared.

    python experiments/one_file.py                 on two CPU cores about a quarter of an hour
    python experiments/one_file.py --images 60 --samples 8   quicker, to look at

Read it from top to bottom: data, SFT, samples, pairs, DPO against a frozen reference, evaluation. It is what the stages
do without what they are made of: no cache of the prompt, no shared prefix, no resuming, no checks. Its losses are those
of the stages on the same rows (tests/test_one_file.py). The paper: arXiv 2410.16198.
"""

from __future__ import annotations

import argparse
import copy
import io
import random
from pathlib import Path

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from rationale.prompts import prompt_text
from rationale.schema import Question
from rationale.scoring.judge import judge
from rationale.sources import tasks
from rationale.worlds.teacher import ProgramTeacher

BASE = Path(__file__).resolve().parent / "mini_base/model"  # LLaVA of 1.5M parameters that can describe an image
Row = tuple[Image.Image, str, str]  # an image, what is asked of it, and the response


# 1. Data: drawn charts, receipts and scenes, each with questions whose answers are known.


def draw(images: int, split: str) -> list[tuple[Question, Image.Image]]:
    """Questions of all three worlds, `images` of each."""
    rows = tasks.mini({split: images}, questions_per_image=2, held_out_per_image=0, seed=0)
    return [(question, Image.open(io.BytesIO(data)).convert("RGB")) for question, ((data, _),) in rows]


def rationales(drawn: list[tuple[Question, Image.Image]]) -> list[Row]:
    """What a teacher that sees question, image and answer writes, where it ends in the annotated answer (Sec. 3.1)."""
    teacher = ProgramTeacher(slip=0.05)
    texts = [(question, image, teacher(question)) for question, image in drawn]
    return [(i, prompt_text(q, "cot"), text) for q, i, text in texts if judge(q, text, "cot").score == 1]


# 2. Rows of tokens, and log p of a response given its image and prompt.


def inputs_of(processor, rows: list[Row]) -> dict[str, Tensor]:
    """Left-padded prompts with their images, as the model takes them."""
    said = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}] for _, prompt, _ in rows
    ]
    texts = [processor.apply_chat_template(turns, add_generation_prompt=True) for turns in said]
    processor.tokenizer.padding_side = "left"
    images = [[image] for image, _, _ in rows]
    return dict(processor(text=texts, images=images, padding=True, add_special_tokens=False, return_tensors="pt"))


def logps_of(model: nn.Module, processor, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """log p of each response token and which of them are no padding, both (rows, T); the end token is one of them."""
    tokenizer, inputs = processor.tokenizer, inputs_of(processor, rows)
    ids = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for *_, text in rows]
    longest = max(map(len, ids))
    labels = torch.tensor([one + [tokenizer.pad_token_id] * (longest - len(one)) for one in ids])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], labels], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], mask], 1)
    logits = model(**inputs, use_cache=False).logits[:, -longest - 1 : -1]
    return logits.log_softmax(-1).gather(2, labels[..., None])[..., 0], mask


# 3. The two losses.


def sft_loss(model: nn.Module, processor, rows: list[Row]) -> Tensor:
    """Negative log-likelihood of a response token."""
    logps, mask = logps_of(model, processor, rows)
    return -(logps * mask).sum() / mask.sum()


def dpo_loss(policy: nn.Module, reference: nn.Module, processor, pairs: list[tuple[Row, Row]], beta: float) -> Tensor:
    """-log sigmoid(beta * margin), the margin of log-ratios of chosen and rejected (Rafailov et al., 2023, Eq. 7)."""
    rows = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]

    def sums(model: nn.Module) -> Tensor:
        logps, mask = logps_of(model, processor, rows)
        return (logps * mask).sum(1)

    with torch.no_grad():
        frozen = sums(reference)
    chosen, rejected = (sums(policy) - frozen).chunk(2)
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def train(model: nn.Module, loss, batches: list, lr: float) -> None:
    """AdamW with a tenth of warm-up and a cosine to a tenth of the rate."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=max(1, len(batches) // 10)),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches), lr / 10),
        ],
        [max(1, len(batches) // 10)],
    )
    model.train()
    for step, batch in enumerate(batches):
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if not step % 20:
            print(f"  step {step + 1} of {len(batches)}: loss {value.item():.3f}", flush=True)
    model.eval()


def in_batches(rows: list, size: int, seed: int) -> list[list]:
    """The rows once, shuffled."""
    rows = random.Random(seed).sample(rows, len(rows))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


# 4. Samples, and pairs of a right and a wrong one (Sec. 3.3).


@torch.inference_mode()
def respond(model: nn.Module, processor, rows: list[Row], samples: int = 1) -> list[list[str]]:
    """Responses to each prompt: the likeliest, or several drawn at temperature 1."""
    inputs = inputs_of(processor, rows)
    drawn = {"do_sample": True, "top_k": 0} if samples > 1 else {"do_sample": False}
    out = model.generate(**inputs, max_new_tokens=176, num_return_sequences=samples, **drawn)
    texts = processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def pairs_of(model: nn.Module, processor, asked: list, samples: int) -> list[tuple[Row, Row]]:
    """Up to three pairs a question that the model gets right between a quarter and 85% of the time."""
    pairs = []
    for number, (question, image) in enumerate(asked):
        prompt = prompt_text(question, "cot")
        (texts,) = respond(model, processor, [(image, prompt, "")], samples)
        right = [judge(question, text, "cot").score == 1 for text in texts]
        if 0.25 <= sum(right) / samples <= 0.85:
            sides = [
                list(dict.fromkeys(t for t, r in zip(texts, right, strict=True) if r is side)) for side in (True, False)
            ]
            pairs += [((image, prompt, a), (image, prompt, b)) for a, b in list(zip(*sides, strict=False))[:3]]
        if not (number + 1) % 20:
            print(f"  {number + 1} of {len(asked)} questions: {len(pairs)} pairs", flush=True)
    return pairs


def accuracy(model: nn.Module, processor, asked: list) -> float:
    """Percent right with the CoT prompt, greedily."""
    right = 0.0
    for start in range(0, len(asked), 16):
        part = asked[start : start + 16]
        texts = respond(model, processor, [(image, prompt_text(q, "cot"), "") for q, image in part])
        right += sum(judge(q, text, "cot").score for (q, _), (text,) in zip(part, texts, strict=True))
    return 100 * right / len(asked)


# 5. The whole.


def main(images: int, samples: int, epochs: int) -> None:
    torch.manual_seed(0)
    processor = AutoProcessor.from_pretrained(BASE)
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    learn, test = draw(images, "train"), draw(max(2, images // 10), "test")
    print(f"{len(learn)} questions to learn from, {len(test)} to be asked")
    print(f"base: {accuracy(model, processor, test):.1f}", flush=True)

    # SFT on rationales and on direct answers: the paper's mixture 4.
    rows = rationales(learn) + [(image, prompt_text(q, "direct"), q.answer) for q, image in learn]
    batches = [batch for epoch in range(epochs) for batch in in_batches(rows, 32, epoch)]
    train(model, lambda batch: sft_loss(model, processor, batch), batches, 1e-3)
    print(f"SFT: {accuracy(model, processor, test):.1f}", flush=True)

    # DPO on the model's own responses; tower and projector stay as they are.
    pairs = pairs_of(model, processor, learn[:: max(1, len(learn) // 200)], samples)
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    model.model.vision_tower.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(False)
    train(model, lambda batch: dpo_loss(model, reference, processor, batch, 0.1), in_batches(pairs, 16, 0), 3e-5)
    print(f"SFT, then DPO on {len(pairs)} pairs: {accuracy(model, processor, test):.1f}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="The whole method in one file.")
    options.add_argument("--images", type=int, default=600, help="of each of three worlds")
    options.add_argument("--samples", type=int, default=32, help="responses a question, for pairs")
    options.add_argument("--epochs", type=int, default=2)
    given = options.parse_args()
    main(given.images, given.samples, given.epochs)
