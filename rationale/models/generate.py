"""Decoding: greedy for evaluation, sampled for candidates; reproducible batch by batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from rationale.data.batch import Example
from rationale.data.encode import Encoder
from rationale.models.prefix import after, own_positions
from rationale.models.vlm import VLM


@dataclass(frozen=True, slots=True)
class Generated:
    """One response: text, its number of tokens, and whether it ended by itself rather than at the limit."""

    text: str
    num_tokens: int
    finished: bool


def seed_of(seed: int, *names: str) -> int:
    """A generator seed that depends on the given names alone, so a resumed run draws what an uncut one draws."""
    return int.from_bytes(hashlib.sha256("/".join([str(seed), *names]).encode()).digest()[:7], "big")


def _warp(temperature: float, top_p: float) -> LogitsProcessorList:
    warpers = [TemperatureLogitsWarper(temperature)] if temperature not in (0.0, 1.0) else []
    return LogitsProcessorList(warpers + ([TopPLogitsWarper(top_p)] if top_p < 1 else []))


def end_tokens(model: nn.Module) -> Tensor:
    """Ids that end a response: the generation config's, or the text model's where that names none."""
    ends = model.generation_config.eos_token_id
    return torch.as_tensor(model.config.get_text_config().eos_token_id if ends is None else ends).reshape(-1)


def decode(
    model: nn.Module, inputs: dict[str, Tensor], num_samples: int, max_new_tokens: int, temperature: float, top_p: float
) -> Tensor:
    """Tokens (prompts * num_samples, T), the samples of a prompt side by side, -1 after the end token.

    Each prompt and its image are computed once; their cache is repeated for the samples, and rows that have ended
    leave the batch. The noise is drawn for every row, ended or not, so the tokens are those of transformers' own
    `generate(num_return_sequences=...)` under the same seed.
    """
    ends = end_tokens(model).to(model.device)
    warp = _warp(temperature, top_p)
    mask = inputs["attention_mask"]
    positions = own_positions(model, inputs)
    next_position = after(positions).repeat_interleave(num_samples, 0)
    out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    cache, logits = out.past_key_values, out.logits[:, -1].repeat_interleave(num_samples, 0).float()
    cache.batch_repeat_interleave(num_samples)
    mask = mask.repeat_interleave(num_samples, 0)
    rows = len(mask)
    alive = torch.arange(rows, device=mask.device)  # rows still in the batch, by their place in the result
    tokens = torch.full((rows, max_new_tokens), -1, dtype=torch.long, device=mask.device)
    probs = torch.full((rows, logits.shape[-1]), 1 / logits.shape[-1], device=mask.device)
    done = torch.zeros(rows, dtype=torch.bool, device=mask.device)
    for step in range(max_new_tokens):
        if temperature > 0:
            probs[alive] = warp(None, logits).softmax(-1)
            chosen = torch.multinomial(probs, 1)[alive]
        else:
            chosen = logits.argmax(-1, keepdim=True)
        going = ~done[alive]
        tokens[alive[going], step] = chosen[going, 0]
        done[alive] |= torch.isin(chosen[:, 0], ends)
        if done.all() or step + 1 == max_new_tokens:
            break
        if done[alive].float().mean() > 0.2:  # the smaller steps pay for the copy of the cache
            stay = (~done[alive]).nonzero()[:, 0]
            alive, chosen, mask, next_position = alive[stay], chosen[stay], mask[stay], next_position[stay]
            cache.batch_select_indices(stay)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        now = next_position + step
        now = now.expand(3, -1, -1) if positions.ndim == 3 else now
        out = model(input_ids=chosen, attention_mask=mask, position_ids=now, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1].float()
    return tokens


@torch.inference_mode()
def generate(
    vlm: VLM,
    examples: list[Example],
    max_new_tokens: int,
    num_samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    blind: bool = False,
) -> list[list[Generated]]:
    """`num_samples` responses to each example's prompt (its response is not read); temperature 0 is greedy.

    `blind` replaces every pixel by 0, about the mean of the processor's normalisation: the language prior is left.
    """
    vlm.model.eval()
    inputs = {k: v.to(vlm.model.device) for k, v in Encoder(vlm.processor).prompts(examples).items()}
    if blind:
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, *(e.question_id for e in examples)))
        tokens = decode(vlm.model, inputs, num_samples, max_new_tokens, temperature, top_p).cpu()
    lengths = (tokens >= 0).sum(1)
    finished = torch.isin(tokens, end_tokens(vlm.model)).any(1).tolist()
    kept = [row[:n] for row, n in zip(tokens, lengths, strict=True)]
    texts = vlm.tokenizer.batch_decode(kept, skip_special_tokens=True)
    flat = [Generated(t.strip(), n, f) for t, n, f in zip(texts, lengths.tolist(), finished, strict=True)]
    return [flat[i : i + num_samples] for i in range(0, len(flat), num_samples)]
