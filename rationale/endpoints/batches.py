"""The provider's batch mode: requests in a file, answers in another within a day, at a lower price."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from rationale.artifacts import UserError, write_json
from rationale.endpoints.client import Answered, Endpoint, Request
from rationale.replies import Reply
from rationale.settings import Count, Positive

OVER = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class Batches:
    """Limits of one batch, and how often to look; the folder's `batches.json` says what was handed in.

    A batch's cost is known only when it is over, so max_cost is held against the projection when it is handed in.
    """

    window: str
    max_requests: Count
    max_bytes: Count
    poll: Positive  # seconds

    def stream(self, endpoint: Endpoint, requests: Sequence[Request], folder: Path) -> Iterator[Answered]:
        """Each request's name and replies. Batches handed in by a run that was cut are waited for, not made again."""
        tries = endpoint.traffic.tries
        service = endpoint.connect(openai.OpenAI, endpoint.addresses[0]).with_options(max_retries=tries)
        try:
            with service:
                yield from _Run(self, endpoint, service, folder).all(requests)
        except openai.APIError as error:
            raise UserError(
                f"batch mode: {endpoint.clean(str(error))[:500]}; what was handed in is kept, the same command goes on"
            ) from None  # the cause may hold our request with its key


class _Run:
    """One pass; `handed` lists the batches by input digest, names and provider's id, in the order of handing in."""

    def __init__(self, batches: Batches, endpoint: Endpoint, service: openai.OpenAI, folder: Path):
        self.limits, self.endpoint, self.service, self.folder = batches, endpoint, service, folder
        self.state = folder / "batches.json"
        self.handed: list[dict[str, Any]] = (
            json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else []
        )

    def all(self, requests: Sequence[Request]) -> Iterator[Answered]:
        self.find_lost()
        wanted = dict(requests)
        waiting = [batch for batch in self.handed if not batch["read"]]
        pending = {name for batch in waiting for name in batch["names"]}
        new = [(name, build) for name, build in requests if name not in pending]
        stopped, budget = None, self.endpoint.budget
        while new and stopped is None:
            names = self.write(new)
            if budget.allows(len(pending) + len(names)):
                waiting.append(self.hand_in(names))
                pending.update(names)
                new = new[len(names) :]
            else:
                stopped = UserError(
                    f"a batch of {len(names)} requests could pass budget.max_cost={budget.max_cost} "
                    f"(${budget.spent:.2f} are spent). All that was handed in is kept; go on with a higher "
                    f"budget.max_cost, or with smaller batches (max_requests)"
                )
        (self.folder / "batch_input.jsonl").unlink(missing_ok=True)
        while waiting:
            for batch in list(waiting):
                found = self.service.batches.retrieve(batch["id"])
                if found.status in OVER:
                    for name, replies in self.read(batch, found, wanted):
                        budget.count(replies)
                        yield name, replies
                    batch["read"] = True
                    self.save()
                    waiting.remove(batch)
            if waiting:
                time.sleep(self.limits.poll)
        if stopped:
            raise stopped

    def save(self) -> None:
        write_json(self.state, self.handed)

    def find_lost(self) -> None:
        """A run killed between handing in and noting the id left a batch that carries the digest of its input."""
        lost = [batch for batch in self.handed if batch["id"] is None]
        if lost:
            known = {(b.metadata or {}).get("input"): b.id for b in self.service.batches.list(limit=100).data}
            for batch in lost:
                batch["id"] = known.get(batch["input"])
            self.handed = [batch for batch in self.handed if batch["id"]]
            self.save()

    def write(self, requests: Sequence[Request]) -> list[str]:
        """Write as many requests as one batch may hold; their names."""
        names, size = [], 0
        with (self.folder / "batch_input.jsonl").open("wb") as file:
            for name, build in requests[: self.limits.max_requests]:
                body = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": build()}
                line = json.dumps(body).encode() + b"\n"
                if names and size + len(line) > self.limits.max_bytes:
                    break
                size += file.write(line)
                names.append(name)
        return names

    def hand_in(self, names: list[str]) -> dict[str, Any]:
        path = self.folder / "batch_input.jsonl"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        batch = {"input": digest, "id": None, "names": names, "read": False}
        self.handed.append(batch)
        self.save()
        uploaded = self.service.files.create(file=path, purpose="batch")
        made = self.service.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window=self.limits.window,
            metadata={"input": digest},
        )  # fmt: skip
        batch["id"] = made.id
        self.save()
        return batch

    def read(self, batch: dict[str, Any], found: Any, wanted: dict) -> Iterator[Answered]:
        """Replies of a batch that is over; a request without a result has failed."""
        missing = set(batch["names"]) & set(wanted)
        for file in filter(None, (found.output_file_id, found.error_file_id)):
            for line in self.service.files.content(file).text.splitlines():
                row = json.loads(line)
                name = row["custom_id"]
                if name in missing:
                    missing.remove(name)
                    yield name, self.replies(name, row)
        said = "; ".join(str(e.message) for e in (found.errors.data or [])) if found.errors else ""
        reason = self.endpoint.clean(f"the batch {found.status} without this row {said}".strip())
        for name in batch["names"]:
            if name in missing:
                yield name, [Reply(name, "", "failed", reason, finished=False)]

    def replies(self, name: str, row: dict[str, Any]) -> list[Reply]:
        response, error = row.get("response") or {}, row.get("error")
        if response.get("status_code") == 200:
            return self.endpoint.answers(name, json.dumps(response.get("body"), ensure_ascii=False))
        said = json.dumps(error or response.get("body"), ensure_ascii=False)
        status = response.get("status_code") or 500
        judged = self.endpoint.judged(name, status, said, self.endpoint.addresses[0])
        return judged or [Reply(name, "", "failed", self.endpoint.clean(f"{status}: {said}")[:500], finished=False)]
