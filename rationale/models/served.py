"""Many requests to an OpenAI-compatible endpoint at once: limits, patience, and a budget."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import openai

from rationale.artifacts import UserError
from rationale.keys import refuse_keys
from rationale.models.replies import Meter, Reply, read_replies
from rationale.settings import Count, NonNegative, Positive, settings

Request = tuple[str, Callable[[], dict[str, Any]]]  # a question's id and what builds the body; images are read late
PASSING = (408, 409, 429)  # and 5xx: worth another try; the same that the openai client would try again
HOPELESS = (401, 403, 404)  # wrong key, no access, no such model: the same for every row


@settings
class Traffic:
    """How an endpoint is asked: times in seconds, limits a minute (None: no limit)."""

    concurrency: Count
    requests_per_minute: Positive | None
    tokens_per_minute: Positive | None
    timeout: Positive
    tries: Count
    first_wait: NonNegative
    longest_wait: NonNegative
    longest_pause: NonNegative  # that an endpoint may ask for (Retry-After); over it the run stops and can go on later
    give_up_after: Count  # so many rows failing for good one after the other: the endpoint is down


class Pace:
    """A limit a minute, kept by spacing: what takes `amount` of it lets the next wait for that share of a minute."""

    def __init__(self, per_minute: float | None):
        self.seconds, self.free_at = 60 / per_minute if per_minute else 0.0, 0.0

    async def take(self, amount: float) -> None:
        start = max(time.monotonic(), self.free_at)
        self.free_at = start + amount * self.seconds
        await asyncio.sleep(start - time.monotonic())

    def correct(self, amount: float) -> None:
        """Take so much more, or less, than was thought."""
        self.free_at += amount * self.seconds


def read_key(variable: str | None) -> str:
    """The key in an environment variable; endpoints without a lock take any."""
    if variable is None:
        return "none"
    if not os.environ.get(variable):
        raise UserError(f"{variable} is not set: put the endpoint's key there, or set key_variable=null if it has none")
    return os.environ[variable]


def retry_after(headers: Any) -> float:
    """Seconds that a reply asks to wait (RFC 9110, section 10.2.3: seconds or a date; retry-after-ms is OpenAI's)."""
    said = headers.get("retry-after") or ""
    try:
        if headers.get("retry-after-ms"):
            return float(headers["retry-after-ms"]) / 1000
        return float(said)
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
        except ValueError:
            return 0.0


class Client:
    """Asks one model of one endpoint. The key is read from the environment when it is needed and stored nowhere."""

    def __init__(self, model: str, base_url: str | None, key_variable: str | None, traffic: Traffic, meter: Meter):
        refuse_keys({"base_url": base_url, "key_variable": key_variable})
        self.model, self.base_url, self.key_variable = model, base_url, key_variable
        self.traffic, self.meter = traffic, meter
        for name in ("httpx", "httpx2"):  # a line for every request would bury the log
            logging.getLogger(name).setLevel(logging.WARNING)

    def connect(self, kind: type) -> Any:
        """An openai client of this `kind`; its own retries are off, ours see every reply."""
        key = read_key(self.key_variable)
        return kind(api_key=key, base_url=self.base_url, timeout=self.traffic.timeout, max_retries=0)

    def clean(self, text: str) -> str:
        """Text from outside without our key: some servers repeat it in their errors."""
        key = read_key(self.key_variable)
        return text if self.key_variable is None else text.replace(key, f"<{self.key_variable}>")

    def replies(self, name: str, text: str) -> list[Reply]:
        """The answers in a body that arrived."""
        return [replace(r, reason=r.reason[:500]) for r in read_replies(name, self.clean(text))]

    def judged(self, name: str, status: int, said: str) -> list[Reply] | None:
        """What an error means for a row: refused or failed for good, or None where another try is worth it.

        An error that every row would meet raises.
        """
        said = self.clean(said)[:500]
        if status in HOPELESS or "insufficient_quota" in said:
            raise UserError(
                f"{self.base_url or 'the endpoint'} answered {status} ({said}); check key_variable, base_url and the "
                f"model {self.model!r}; what was stored is kept"
            )
        if status in PASSING or status >= 500:
            return None
        if "content_policy" in said or "content_filter" in said:
            return [Reply(name, "", "refused", said, finished=False)]
        return [Reply(name, "", "failed", f"{status}: {said}", finished=False)]

    def stream(self, requests: Iterable[Request], capped: bool = True) -> Iterator[tuple[str, list[Reply]]]:
        """Each request's name and replies as they arrive, `concurrency` under way at once.

        Where the budget is used up (unless `capped` is False: the caller has seen to it), or the endpoint is of no
        use, no more requests are started, those under way are waited for, and UserError says how to go on.
        """
        loop = asyncio.new_event_loop()
        arrived: asyncio.Queue = asyncio.Queue()
        run = loop.create_task(_Run(self, requests, arrived, capped).all())
        try:
            while (item := loop.run_until_complete(arrived.get())) is not None:
                yield item
            loop.run_until_complete(run)
        finally:
            run.cancel()
            loop.run_until_complete(asyncio.gather(run, return_exceptions=True))
            loop.close()


class _Run:
    """One pass over many requests; what its workers share."""

    def __init__(self, client: Client, requests: Iterable[Request], arrived: asyncio.Queue, capped: bool):
        self.client, self.traffic, self.meter = client, client.traffic, client.meter
        self.requests, self.arrived, self.capped = iter(requests), arrived, capped
        self.pace, self.token_pace = Pace(self.traffic.requests_per_minute), Pace(self.traffic.tokens_per_minute)
        self.under_way, self.failures, self.paused_until = 0, 0, 0.0
        self.error: Exception | None = None

    async def all(self) -> None:
        try:
            async with self.client.connect(openai.AsyncOpenAI) as connection:
                await asyncio.gather(*(self.work(connection) for _ in range(self.traffic.concurrency)))
        finally:
            self.arrived.put_nowait(None)
        if self.error:
            raise self.error

    async def work(self, connection: openai.AsyncOpenAI) -> None:
        while self.error is None:
            if self.capped and not self.meter.allows(self.under_way + 1):
                if self.under_way == 0 and (waiting := next(self.requests, None)):
                    self.error = self.used_up(waiting[0])
                return
            request = next(self.requests, None)
            if request is None:
                return
            self.under_way += 1
            try:
                replies = await self.ask(connection, request[0], await asyncio.to_thread(request[1]))
            except Exception as error:  # kept until those under way have arrived, then raised by `all`
                self.error = self.error or error
                return
            finally:
                self.under_way -= 1
            self.meter.count(replies)
            self.arrived.put_nowait((request[0], replies))
            self.failures = self.failures + 1 if replies[0].status == "failed" else 0
            if self.failures >= self.traffic.give_up_after:
                self.error = UserError(
                    f"{self.failures} rows failed one after the other, the last with: {replies[0].reason}; stopped. "
                    f"See that the endpoint answers, then run the same command, with retry_failed=true of the stage "
                    f"where it has that"
                )

    def used_up(self, name: str) -> UserError:
        return UserError(
            f"stopped before {name}: ${self.meter.spent:.4f} are spent, and one more could pass budget.max_cost="
            f"{self.meter.max_cost}. Every reply is kept; the same command with a higher budget.max_cost goes on"
        )

    async def ask(self, connection: openai.AsyncOpenAI, name: str, body: dict[str, Any]) -> list[Reply]:
        """The replies to one request, tried again with growing waits while the fault may pass."""
        reason, jitter = "", Random(name)
        for number in range(self.traffic.tries):
            if number:
                grown = min(self.traffic.longest_wait, self.traffic.first_wait * 2 ** (number - 1))
                await asyncio.sleep(grown * (0.5 + jitter.random() / 2))
            thought = sum(self.meter.each)
            await self.pace.take(1)
            await self.token_pace.take(thought)
            while self.paused_until > time.monotonic():
                await asyncio.sleep(self.paused_until - time.monotonic())
            try:
                async with asyncio.timeout(self.traffic.timeout):
                    raw = await connection.chat.completions.with_raw_response.create(
                        model=body["model"], messages=body["messages"], extra_body=body
                    )
                replies = self.client.replies(name, raw.text)
                self.token_pace.correct(sum(r.input_tokens + r.output_tokens for r in replies) - thought)
                return replies
            except (TimeoutError, openai.APITimeoutError):
                reason = f"no answer within {self.traffic.timeout} s"
            except openai.APIConnectionError as error:
                reason = self.client.clean(f"connection: {error.__cause__ or error}")
            except openai.APIStatusError as error:
                said = error.response.text
                if (judged := self.client.judged(name, error.status_code, said)) is not None:
                    return judged
                reason = f"{error.status_code}: {self.client.clean(said)[:500]}"
                pause = retry_after(error.response.headers)
                if pause > self.traffic.longest_pause:
                    raise UserError(
                        f"the endpoint asks to wait {pause:.0f} s ({reason}); stopped, what was stored is kept: run "
                        f"the same command then, or raise traffic.longest_pause"
                    ) from None
                # The whole pass waits: a limit is that of the account, not of the row that met it.
                self.paused_until = max(self.paused_until, time.monotonic() + pause)
        return [Reply(name, "", "failed", f"{reason} ({self.traffic.tries} tries)", finished=False)]
