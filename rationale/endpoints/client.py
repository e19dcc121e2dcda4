"""Many requests to an OpenAI-compatible endpoint at once, at one address or several: limits, patience, and a budget."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from random import Random
from statistics import median
from typing import Any

from rationale.artifacts import UserError
from rationale.endpoints.completions import read_replies
from rationale.endpoints.keys import refuse_keys
from rationale.replies import Budget, Reply
from rationale.settings import Addresses, Count, NonNegative, Positive, settings

Request = tuple[str, Callable[[], dict[str, Any]]]  # a question's id and what builds the body; images are read late
Answered = tuple[str, list[Reply]]  # that name, and the answers to it
RETRYABLE = (408, 409, 429)  # and 5xx: worth another try; the same that the openai client would try again
FATAL = (401, 403, 404)  # wrong key, no access, no such model: the same for every row
LOOK = 1.0  # seconds between two looks at whether an answer is late
LATE = 4  # times the median of the last answers


@settings
class RequestPolicy:
    """How an endpoint is asked: times in seconds, limits a minute (None: no limit)."""

    concurrency: Count  # requests under way at one address
    requests_per_minute: Positive | None  # of the account: all addresses together
    tokens_per_minute: Positive | None
    timeout: Positive
    tries: Count
    first_wait: NonNegative
    longest_wait: NonNegative
    longest_pause: NonNegative  # that an endpoint may ask for (Retry-After); over it the run stops and can go on later
    # So many rows failing for good one after the other: the endpoint is down. Of several addresses, one that fails so
    # many requests one after the other is left out.
    give_up_after: Count


class RateLimiter:
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


@dataclass(eq=False, slots=True)
class Address:
    """Where a model is served, and how it does there; times are those of the monotonic clock."""

    url: str | None
    under_way: int = 0
    failures: int = 0  # requests without an answer, one after the other
    reason: str = ""  # of the last
    paused_until: float = 0.0  # as the address asked
    ask_again_at: float = 0.0  # one request, to see whether it is back, where it is left out


@dataclass(eq=False, kw_only=True)
class Endpoint:
    """One model behind OpenAI's chat completions, the same at all of its addresses.

    `key_variable` names the environment variable of the key, which is read when it is needed and stored nowhere.
    `options` go into every request as they are (temperature, max_tokens and what else the endpoint knows).
    """

    model_name: str
    base_url: Addresses | None
    key_variable: str | None
    options: dict[str, Any]
    traffic: RequestPolicy
    budget: Budget

    def __post_init__(self) -> None:
        refuse_keys({"base_url": self.base_url, "key_variable": self.key_variable})
        self.addresses = [Address(u) for u in (self.base_url if isinstance(self.base_url, list) else [self.base_url])]
        for name in ("httpx", "httpx2"):  # a line for every request would bury the log
            logging.getLogger(name).setLevel(logging.WARNING)

    def connect(self, kind: type, address: Address) -> Any:
        """An openai client of this `kind`; its own retries are off, ours see every reply."""
        key = read_key(self.key_variable)
        return kind(api_key=key, base_url=address.url, timeout=self.traffic.timeout, max_retries=0)

    def clean(self, text: str) -> str:
        """Text from outside without our key: some servers repeat it in their errors."""
        key = read_key(self.key_variable)
        return text if self.key_variable is None else text.replace(key, f"<{self.key_variable}>")

    def answers(self, name: str, text: str) -> list[Reply]:
        """The answers in a body that arrived."""
        return [replace(r, reason=r.reason[:500]) for r in read_replies(name, self.clean(text))]

    def judged(self, name: str, status: int, said: str, address: Address) -> list[Reply] | None:
        """What an error means for a row: refused or failed for good, or None where another try is worth it.

        An error that every row would meet raises.
        """
        said = self.clean(said)[:500]
        if status in FATAL or "insufficient_quota" in said:
            raise UserError(
                f"{address.url or 'the endpoint'} answered {status} ({said}); check key_variable, base_url and the "
                f"model {self.model_name!r}; what was stored is kept"
            )
        if status in RETRYABLE or status >= 500:
            return None
        if "content_policy" in said or "content_filter" in said:
            return [Reply(name, "", "refused", said, finished=False)]
        return [Reply(name, "", "failed", f"{status}: {said}", finished=False)]

    def stream(self, requests: Iterable[Request], capped: bool = True) -> Iterator[Answered]:
        """Each request's name and replies as they arrive, `concurrency` under way at once at each address.

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


@dataclass(slots=True)
class _Asked:
    """A request under way."""

    name: str
    body: dict[str, Any]
    failed: set[Address] = field(default_factory=set)  # that gave no answer to it
    sent: float = math.inf  # when, the last time


class _Run:
    """One pass over many requests; what its workers share.

    A request goes to the least busy address, and after a failure to another. An address that fails many one after the
    other is left out, but for one request now and then that shows whether it is back.
    """

    def __init__(self, endpoint: Endpoint, requests: Iterable[Request], arrived: asyncio.Queue, capped: bool):
        self.endpoint, self.traffic = endpoint, endpoint.traffic
        self.budget, self.addresses = endpoint.budget, endpoint.addresses
        self.requests, self.arrived, self.capped = iter(requests), arrived, capped
        self.pace = RateLimiter(self.traffic.requests_per_minute)
        self.token_pace = RateLimiter(self.traffic.tokens_per_minute)
        self.under_way, self.failures, self.all_begun = 0, 0, False
        self.error: Exception | None = None
        self.seconds: deque[float] = deque(maxlen=100)  # that the last answers took

    async def all(self) -> None:
        import openai  # takes a second, and a model of this process needs it not

        try:
            async with AsyncExitStack() as stack:
                opened = {a: self.endpoint.connect(openai.AsyncOpenAI, a) for a in self.addresses}
                self.connections = {a: await stack.enter_async_context(one) for a, one in opened.items()}
                await asyncio.gather(*(self.work() for _ in range(self.traffic.concurrency * len(self.addresses))))
        finally:
            self.arrived.put_nowait(None)
        if self.error:
            raise self.error

    async def work(self) -> None:
        while self.error is None:
            if self.capped and not self.budget.allows(self.under_way + 1):
                if self.under_way == 0 and (waiting := next(self.requests, None)):
                    self.error = UserError(
                        f"stopped before {waiting[0]}: ${self.budget.spent:.4f} are spent, and one more could pass "
                        f"budget.max_cost={self.budget.max_cost}. Every reply is kept; the same command with a higher "
                        f"budget.max_cost goes on"
                    )
                return
            request = next(self.requests, None)
            if request is None:
                self.all_begun = True
                return
            self.under_way += 1
            try:
                replies = await self.ask(_Asked(request[0], await asyncio.to_thread(request[1])))
            except Exception as error:  # kept until those under way have arrived, then raised by `all`
                self.error = self.error or error
                return
            finally:
                self.under_way -= 1
            self.budget.count(replies)
            self.arrived.put_nowait((request[0], replies))
            self.failures = self.failures + 1 if replies[0].status == "failed" else 0
            if self.failures >= self.traffic.give_up_after:
                self.error = UserError(
                    f"{self.failures} rows failed one after the other, the last with: {replies[0].reason}; stopped. "
                    f"See that the endpoint answers, then run the same command, with retry_failed=true of the stage "
                    f"where it has that"
                )

    async def ask(self, request: _Asked) -> list[Reply]:
        """The replies to one request, tried again with growing waits while the fault may pass."""
        found, jitter = "", Random(request.name)
        for number in range(self.traffic.tries):
            if number:
                grown = min(self.traffic.longest_wait, self.traffic.first_wait * 2 ** (number - 1))
                await asyncio.sleep(grown * (0.5 + jitter.random() / 2))
            while (address := self.free(request.failed)) is None:
                await asyncio.sleep(LOOK / 10)
            found = await self.first(address, request)
            if not isinstance(found, str):
                return found
        if len(self.addresses) > 1 and all(a.failures >= self.traffic.give_up_after for a in self.addresses):
            raise UserError(
                f"none of {len(self.addresses)} addresses answers: "
                f"{'; '.join(f'{a.url} ({a.reason})' for a in self.addresses)}. What was stored is kept: run the same "
                f"command when they do, or with others in base_url"
            )
        return [Reply(request.name, "", "failed", f"{found} ({self.traffic.tries} tries)", finished=False)]

    def in_use(self) -> list[Address]:
        """Those that are not left out; where none is left, all."""
        return [a for a in self.addresses if a.failures < self.traffic.give_up_after] or self.addresses

    def free(self, failed: set[Address]) -> Address | None:
        """The least busy address with room, none of `failed` where there are others. None: one will have room."""
        now, in_use = time.monotonic(), self.in_use()
        back = [a for a in self.addresses if a not in in_use and not a.under_way and a.ask_again_at <= now]
        ready = [a for a in (*back, *in_use) if a.paused_until <= now] or in_use
        fit = [a for a in ready if a not in failed] or ready
        room = [a for a in fit if a.under_way < self.traffic.concurrency]
        return min(room, key=lambda a: a.under_way, default=None)

    async def first(self, address: Address, request: _Asked) -> list[Reply] | str:
        """The first replies to come, or why there are none. One that is late is asked for at a free address as well."""
        asked: dict[asyncio.Task, Address] = {}
        new: Address | None = address
        try:
            while True:
                if new not in (None, *asked.values()):
                    self.budget.unknown += new is not address  # both may have to be paid for
                    new.under_way += 1
                    asked[asyncio.create_task(self.attempt(new, request))] = new
                done, _ = await asyncio.wait(asked, timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    asked.pop(task).under_way -= 1
                    if not isinstance(found := task.result(), str):
                        if address in asked.values():
                            self.blame(address, "slow: another address, asked later, answered first", request)
                        return found
                if not asked:
                    return found
                new = self.free(request.failed | {*asked.values()}) if self.late(address, request) else None
        finally:
            for task, other in asked.items():
                task.cancel()
                other.under_way -= 1
            await asyncio.gather(*asked, return_exceptions=True)

    def late(self, address: Address, request: _Asked) -> bool:
        """Whether an answer takes much longer than the last ones did while no request waits for its turn, or is one of
        an address that is left out."""
        usual = median(self.seconds) if self.all_begun and self.seconds else math.inf
        late = time.monotonic() - request.sent > LATE * usual or address not in self.in_use()
        return late and self.budget.allows(self.under_way + 1)

    async def attempt(self, address: Address, request: _Asked) -> list[Reply] | str:
        """The replies of one address, or why there are none where another try is worth it."""
        import openai

        thought = sum(self.budget.each)
        await self.pace.take(1)
        await self.token_pace.take(thought)
        while address.paused_until > time.monotonic():
            await asyncio.sleep(address.paused_until - time.monotonic())
        request.sent = sent = time.monotonic()
        try:
            async with asyncio.timeout(self.traffic.timeout):
                raw = await self.connections[address].chat.completions.with_raw_response.create(
                    model=request.body["model"], messages=request.body["messages"], extra_body=request.body
                )
            replies = self.endpoint.answers(request.name, raw.text)
            self.token_pace.correct(sum(r.input_tokens + r.output_tokens for r in replies) - thought)
            self.seconds.append(time.monotonic() - sent)
            address.failures = 0
            return replies
        except (TimeoutError, openai.APITimeoutError):
            reason = f"no answer within {self.traffic.timeout} s"
        except openai.APIConnectionError as error:
            reason = self.endpoint.clean(f"connection: {error.__cause__ or error}")
        except openai.APIStatusError as error:
            said = error.response.text
            if (judged := self.endpoint.judged(request.name, error.status_code, said, address)) is not None:
                address.failures = 0
                return judged
            reason = f"{error.status_code}: {self.endpoint.clean(said)[:500]}"
            # All that is asked there waits: a limit is that of the account, not of the row that met it.
            pause, now = retry_after(error.response.headers), time.monotonic()
            address.paused_until = max(address.paused_until, now + pause)
            if min(a.paused_until for a in self.in_use()) > now + self.traffic.longest_pause:
                raise UserError(
                    f"{address.url or 'the endpoint'} asks to wait {pause:.0f} s ({reason}); stopped, what was stored "
                    f"is kept: run the same command then, or raise traffic.longest_pause"
                ) from None
            if error.status_code == 429:  # too much at once, so no fault of the address
                request.failed.add(address)
                return reason
        self.blame(address, reason, request)
        return reason

    def blame(self, address: Address, reason: str, request: _Asked) -> None:
        """Hold a failure against an address, once a request; with one too many it is left out."""
        address.reason, address.ask_again_at = reason, time.monotonic() + self.traffic.longest_wait
        if address not in request.failed:
            request.failed.add(address)
            address.failures += 1
            if len(self.addresses) > 1 and address.failures == self.traffic.give_up_after:
                logging.getLogger(__name__).warning(
                    "%s is left out: %d requests failed one after the other, the last with: %s",
                    address.url, address.failures, reason,
                )  # fmt: skip
