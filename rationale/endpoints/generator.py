"""A served model in the place of the stage's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rationale.artifacts import UserError
from rationale.endpoints.chat import ImageEncoding
from rationale.endpoints.client import Endpoint
from rationale.endpoints.parity import other_prompts
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.generate import Generated, limits_of, seed_of
from rationale.models.vlm import VLM
from rationale.replies import Reply
from rationale.settings import Count

ALIKE = 100  # repeats of a prompt's first response, and nothing else, that no sampling would give
LOOKED_AT = 3  # prompts an address whose tokens are compared


@dataclass(eq=False, kw_only=True)
class Served(Endpoint):
    """A served model; `model`, the stage's own, is not loaded.

    One request asks for at most `samples_per_request` responses, and for one where the endpoint refuses to give more.
    A refusal is a response like any other, judged as it stands. A request that failed for good or brought no chat
    completion stops the stage: a made-up response would count as a wrong one. `processor` is that of the model that
    will be trained on what is sampled here: a warning says where the endpoint reads prompts otherwise.
    """

    is_shared = True

    model: Callable[..., VLM] = field(kw_only=False)
    token_limit: str
    samples_per_request: Count
    at_once: Count
    picture: ImageEncoding
    processor: Callable[[], Any] | None = None

    def __call__(
        self,
        examples: list[Example],
        max_new_tokens: int | Sequence[int],
        num_samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        blind: bool = False,
        read: None = None,
    ) -> list[list[Generated]]:
        limits = limits_of(max_new_tokens, examples)
        found: list[list[Generated]] = [[] for _ in examples]
        self.afford(examples, num_samples)
        turn = 0
        while any(len(texts) < num_samples for texts in found):
            requests, asked = [], {}
            for place, (example, limit) in enumerate(zip(examples, limits, strict=True)):
                missing = num_samples - len(found[place])
                for start in range(0, missing, self.samples_per_request):
                    count = min(self.samples_per_request, missing - start)
                    drawn = {"temperature": temperature}
                    if temperature > 0:  # requests about one prompt differ in their seed
                        noise = seed_of(seed, example.question_id, str(turn), str(start)) % 2**31
                        drawn |= {"top_p": top_p, "seed": noise}
                    if count > 1:  # some endpoints refuse the field itself
                        drawn["n"] = count
                    name = f"{place}/{start}"
                    asked[name] = (place, count)
                    requests.append((name, partial(self.body, example, {self.token_limit: limit, **drawn}, blind)))
            counts = self.collect(requests, asked, examples, found)
            if temperature > 0 and any(counts):
                self.look(examples, counts)
            turn += 1
        repeats = len(examples) * (num_samples - 1)
        if temperature > 0 and repeats >= ALIKE and all(len({r.text for r in texts}) == 1 for texts in found):
            raise UserError(
                f"{self.model_name} gave each of {len(examples)} prompts {num_samples} times the same response at "
                f"temperature {temperature}: the endpoint does not sample. Set it to, or say so in options: "
                f"transformers serve takes generation_config='{{\"do_sample\": true}}'"
            )
        return found

    def check(self, examples: list[Example], max_new_tokens: Sequence[int]) -> None:
        """The endpoint's business: it refuses what it cannot read."""

    def read(self, examples: list[Example]) -> None:
        """Images are sent as they are."""

    def afford(self, examples: list[Example], num_samples: int) -> None:
        """Stop before a call that could pass max_cost: a call that is cut stores nothing of what it paid for."""
        budget, first = self.budget, examples[0]
        budget.expected_input = self.picture.estimate(first)
        if not budget.allows(len(examples) * math.ceil(num_samples / self.samples_per_request)):
            raise UserError(
                f"stopped before {first.question_id}: ${budget.spent:.4f} are spent in this run, and the next "
                f"{len(examples)} prompts could pass budget.max_cost={budget.max_cost}. All batches so far are "
                f"kept; the same command goes on from here, with max_cost for what it spends itself"
            )

    def greedy(self, examples: list[Example], max_new_tokens: int) -> list[Reply]:
        """The likeliest response to each prompt as it arrived, with its log-probs where the endpoint gives any."""
        self.afford(examples, 1)
        for more in ({"logprobs": True}, {}):
            drawn = {self.token_limit: max_new_tokens, "temperature": 0.0, **more}
            requests = [(str(place), partial(self.body, e, drawn, False)) for place, e in enumerate(examples)]
            arrived = dict(self.stream(requests, capped=False))
            replies = [arrived[name][0] for name, _ in requests]
            if not any(map(not_taken, replies)):
                break
        for example, reply in zip(examples, replies, strict=True):
            self.response(reply, example.question_id)
        return replies

    def body(self, example: Example, drawn: dict[str, Any], blind: bool) -> dict[str, Any]:
        turns = self.picture.messages(example, blank=blind)
        return {"model": self.model_name, "messages": turns, **drawn, **self.options}

    def look(self, examples: list[Example], counts: list[int]) -> None:
        """Warn, once, where the first prompts have other tokens there (`counts`) than where they are trained on."""
        read, self.processor = self.processor, None
        if read is None:
            return
        looked_at = LOOKED_AT * len(self.addresses)  # at the start each is asked as many
        try:
            other = other_prompts(Encoder(read()), examples[:looked_at], counts[:looked_at])
        except UserError as error:
            other = f"its prompt tokens could not be compared with this model's: {error}"
        if other:
            logging.getLogger(__name__).warning("%s: %s", self.model_name, other)

    def collect(self, requests: list, asked: dict, examples: list[Example], found: list[list[Generated]]) -> list[int]:
        """Put the answers of one round of requests where they belong, in the order of the requests; tokens of the
        examples' prompts, 0 where the endpoint does not say."""
        arrived, counts = dict(self.stream(requests, capped=False)), [0] * len(examples)
        for name, (place, count) in asked.items():
            replies = arrived[name]
            if count > 1 and not_taken(replies[0]):
                self.samples_per_request = 1  # the endpoint gives one response a request; the next round asks so
                continue
            counts[place] = replies[0].input_tokens
            for reply in replies[:count]:
                found[place].append(self.response(reply, examples[place].question_id))
        return counts

    def response(self, reply: Reply, question_id: str) -> Generated:
        if reply.status in ("failed", "malformed"):
            raise UserError(
                f"{question_id}: {self.model_name} gave no response ({reply.status}: {reply.reason}); all batches "
                f"before this one are kept, the same command goes on from there"
            )
        return Generated(reply.text.strip(), reply.output_tokens, reply.finished)


def not_taken(reply: Reply) -> bool:
    """Whether the endpoint refused the request for what stands in it, as a field that it does not know."""
    return reply.status == "failed" and reply.reason.startswith(("400:", "422:"))
