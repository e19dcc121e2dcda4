"""Decoding: greedy for evaluation, sampled for candidates; reproducible batch by batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from rationale.data.encode import Encoder, Example
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

    `blind` replaces every pixel by 0, the mean of the processor's normalisation, which leaves only the language prior.
    """
    encoder = Encoder(vlm.processor)
    vlm.model.eval()
    inputs = {k: v.to(vlm.model.device) for k, v in encoder.prompts(examples).items()}
    if blind:
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    sampling = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, *(e.question_id for e in examples)))
        tokens = vlm.model.generate(
            **inputs, **sampling, max_new_tokens=max_new_tokens, num_return_sequences=num_samples,
            pad_token_id=vlm.tokenizer.pad_token_id,
        )  # fmt: skip
    tokens = tokens[:, inputs["input_ids"].shape[1] :]
    end = vlm.model.generation_config.eos_token_id
    end = torch.as_tensor(vlm.tokenizer.eos_token_id if end is None else end).reshape(-1)
    ended = torch.isin(tokens.cpu(), end)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, tokens.shape[1]).tolist()
    texts = vlm.tokenizer.batch_decode(
        [row[:n] for row, n in zip(tokens, lengths, strict=True)], skip_special_tokens=True
    )
    flat = [Generated(t.strip(), n, bool(e)) for t, n, e in zip(texts, lengths, ended.any(1).tolist(), strict=True)]
    return [flat[i : i + num_samples] for i in range(0, len(flat), num_samples)]
