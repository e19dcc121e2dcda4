"""Decoding: greedy for evaluation, sampled for candidates; reproducible batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from rationale.artifacts import UserError
from rationale.models.batch import Example
from rationale.models.checks import end_tokens
from rationale.models.device import forked_rng, moved, pinned
from rationale.models.encode import Encoder
from rationale.models.families import base_of, can_copy, can_share
from rationale.models.layout import rows_about
from rationale.models.prefill import Prefilled, extend, prefill
from rationale.models.vlm import VLM, evaluating

Prompts = tuple[dict[str, Tensor], list[list[int]] | None]


@dataclass(frozen=True, slots=True)
class Generated:
    """One response, and whether it ended by itself rather than at the limit. `token_ids` are its tokens, the end left
    out, where its text would have others; none of a served response, nor where one marks an image, for read again, a
    model would look for the image."""

    text: str
    num_tokens: int
    finished: bool
    token_ids: list[int] = field(default_factory=list)


def seed_of(seed: int, *names: str) -> int:
    """A generator seed that depends on the given names alone, so a resumed run draws what an uncut one draws."""
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:7], "big")


def _warp(temperature: float, top_p: float) -> LogitsProcessorList:
    warpers = [TemperatureLogitsWarper(temperature)] if temperature not in (0.0, 1.0) else []
    return LogitsProcessorList(warpers + ([TopPLogitsWarper(top_p)] if top_p < 1 else []))


def _generator(device: torch.device, seed: int) -> torch.Generator:
    """On the device, or on the CPU for a device that has none of its own."""
    try:
        return torch.Generator(device).manual_seed(seed)
    except NotImplementedError:
        return torch.Generator().manual_seed(seed)


def _drawn(probs: Tensor, noise: torch.Generator | None) -> Tensor:
    there = probs if noise is None else probs.to(noise.device)
    return torch.multinomial(there, 1, generator=noise).to(probs.device)


def decode(
    model: nn.Module,
    read: Prefilled,
    limits: Tensor,
    temperature: float,
    top_p: float,
    num_samples: int = 1,
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Tokens (prompts * num_samples, T), the samples of a prompt side by side, -1 after the end token.

    `limits` (prompts,) is the most tokens of each prompt's responses. Rows that have ended leave the batch. The noise
    is drawn for every row, ended or not, so the tokens are those of transformers' own
    `generate(num_return_sequences=...)` under the same seed; or, with `seeds`, for each prompt by its own. Processes
    that hold the weights in pieces (ZeRO-3) go on together until the last has ended.
    """
    ends = end_tokens(model).to(model.device)
    warp = _warp(temperature, top_p)
    rows = torch.arange(len(read.mask), device=model.device).repeat_interleave(num_samples)
    read, limits = read.repeated(rows), limits.to(model.device)[rows]
    logits, longest = read.logits, int(limits.max())
    alive = torch.arange(len(rows), device=model.device)  # rows still in the batch, by their place in the result
    tokens = torch.full((len(rows), longest), -1, dtype=torch.long, device=model.device)
    probs = torch.full((len(rows), logits.shape[-1]), 1 / logits.shape[-1], device=model.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=model.device)
    noise = [None] if seeds is None else [_generator(model.device, seed) for seed in seeds]
    in_pieces = any(hasattr(p, "ds_id") for p in model.parameters())
    for step in range(longest):
        if temperature > 0:
            probs[alive] = warp(None, logits).softmax(-1)
            parts = zip(probs.chunk(len(noise)), noise, strict=True)
            chosen = torch.cat([_drawn(part, own) for part, own in parts])[alive]
        else:
            chosen = logits.argmax(-1, keepdim=True)
        going = ~done[alive]
        tokens[alive[going], step] = chosen[going, 0]
        done[alive] |= torch.isin(chosen[:, 0], ends) | (limits[alive] <= step + 1)
        ended = done.all().int()
        if in_pieces:
            torch.distributed.all_reduce(ended, torch.distributed.ReduceOp.MIN)
        if ended:
            break
        if 0.2 < done[alive].float().mean() < 1:  # the smaller steps pay for the copy of the cache
            stay = (~done[alive]).nonzero()[:, 0]
            alive, chosen, read = alive[stay], chosen[stay], read.repeated(stay)
        given = read.decoder_inputs(chosen, torch.ones_like(chosen))
        logits = model(**given, logits_to_keep=1).logits[:, -1].float()
    return tokens


def decode_alone(
    model: nn.Module, inputs: dict[str, Tensor], limits: Tensor, temperature: float, top_p: float, num_samples: int
) -> Tensor:
    """`decode` by transformers' own `generate`, which alone knows the caches of models that were not compared."""
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    ends = end_tokens(model)
    config = GenerationConfig(
        max_new_tokens=int(limits.max()), num_return_sequences=num_samples, repetition_penalty=1.0,
        eos_token_id=ends.tolist(), pad_token_id=int(ends[0]), **sampling,
    )  # fmt: skip
    tokens = model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
    ended = torch.isin(tokens, ends.to(tokens.device))
    number = torch.arange(tokens.shape[1], device=tokens.device)
    over = number >= limits.to(tokens.device).repeat_interleave(num_samples)[:, None]
    return tokens.masked_fill(over | (ended.cumsum(1) > ended), -1)  # behind the first end token


def read_prompts(vlm: VLM, examples: list[Example]) -> Prompts:
    """The prompts' text and images as the model takes them, on the CPU. Those about the same images begin alike, where
    the family can share a prefix: then what each of them goes on with is beside it."""
    encoder = Encoder(vlm.processor)
    shared = max(rows_about(examples)) + 1 < len(examples) and can_share(vlm.model)
    inputs, rests = encoder.prefixes(examples) if shared else (encoder.prompts(examples), None)
    return pinned(inputs, vlm.model.device), rests


def limits_of(max_new_tokens: int | Sequence[int], examples: Sequence[Example]) -> Sequence[int]:
    """The token limit of each example: its own, or the one that is given for all."""
    return [max_new_tokens] * len(examples) if isinstance(max_new_tokens, int) else max_new_tokens


def generate(
    vlm: VLM,
    examples: list[Example],
    max_new_tokens: int | Sequence[int],
    num_samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
    blind: bool = False,
    read: Prompts | None = None,
) -> list[list[Generated]]:
    """`num_samples` responses to each example's prompt (its response is not read); temperature 0 is greedy.

    `max_new_tokens` is one limit, or one for each example. `seed` is one for the batch, or one for each example, whose
    samples then do not hang on the others in the batch (but for rounding). Prompts about the same images read them
    once, where the family can share a prefix. `blind` replaces every pixel by 0, about the mean of the processor's
    normalisation: the language prior is left. `read` is what `read_prompts` gives of these examples, where that was
    done ahead.
    """
    seeds = None if isinstance(seed, int) else seed
    if seeds is not None and not can_copy(vlm.model):  # transformers draws for the batch alone
        each = zip(examples, limits_of(max_new_tokens, examples), seeds, strict=True)
        return [generate(vlm, [e], n, num_samples, temperature, top_p, own, blind)[0] for e, n, own in each]
    encoder = Encoder(vlm.processor)
    row_of, (inputs, rests) = rows_about(examples), read or read_prompts(vlm, examples)
    inputs = moved(inputs, vlm.model.device)
    if blind:
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    limits = torch.tensor(limits_of(max_new_tokens, examples))
    if num_samples > 1 and not can_copy(vlm.model) and any(len(e.images) > 1 for e in examples):
        raise UserError(  # `generate` repeats image by image, and would give rows the images of others
            f"{vlm.source} ({base_of(vlm.model).config.model_type}): several samples of a prompt with several images "
            "cannot be drawn; leave such rows out (dataset.skip=[several_images] where they are prepared)"
        )
    # A training would go backward through what was kept of this, such as weights that ZeRO-3 gathered.
    without_gradient = torch.no_grad() if vlm.model.training else torch.inference_mode()
    with without_gradient, evaluating(vlm.model), forked_rng(vlm.model.device):
        if seeds is None:
            torch.manual_seed(seed_of(seed, *(e.question_id for e in examples)))
        if can_copy(vlm.model):
            prefix = prefill(vlm.model, inputs)
            if rests:
                prefix = extend(vlm.model, prefix.repeated(torch.tensor(row_of, device=vlm.model.device)), rests)
            tokens = decode(vlm.model, prefix, limits, temperature, top_p, num_samples, seeds).cpu()
        else:
            tokens = decode_alone(vlm.model, inputs, limits, temperature, top_p, num_samples).cpu()
    lengths = (tokens >= 0).sum(1).tolist()
    finished = torch.isin(tokens, end_tokens(vlm.model)).any(1).tolist()
    token_ids = [row[: n - f].tolist() for row, n, f in zip(tokens, lengths, finished, strict=True)]
    texts = [text.strip() for text in vlm.tokenizer.batch_decode(token_ids, skip_special_tokens=True)]
    again = encoder.responses([Example("", (), "", text, ended=False) for text in texts])
    marks = {getattr(vlm.processor, f"{kind}_token_id", None) for kind in ("image", "video", "audio")}
    kept = [ids * (ids != of_text and marks.isdisjoint(ids)) for ids, of_text in zip(token_ids, again, strict=True)]
    flat = [Generated(*row) for row in zip(texts, lengths, finished, kept, strict=True)]
    return [flat[i : i + num_samples] for i in range(0, len(flat), num_samples)]
