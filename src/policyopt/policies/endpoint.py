"""Questions to a chat model behind an OpenAI-compatible HTTP API: many at once, each answered, or failed with a reason.

A peer can be slow, gone, overloaded or talk nonsense. So every question has a timeout and every batch a deadline,
failures are tried again after growing pauses, and what still fails is None: never a number that nobody said. Answers
are remembered by the content of the question.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

log = logging.getLogger("policyopt")

T = TypeVar("T")
Messages = Sequence[Mapping[str, str]]
Read = Callable[[str], T | None]
"""What a reply says; None where it says nothing that was asked for."""


class JudgeError(RuntimeError):
    """A judge that can not be asked, or that left too many questions unanswered. Names the peer and the phase."""


@dataclass(frozen=True)
class Endpoint:
    """Where a chat model answers and how patiently it is asked.

    url: up to /v1. key: name of the environment variable that holds the API key; local servers need none. timeout:
    seconds for one answer. retries: how often a question is asked again. pause: seconds before the first time, doubled
    every time. concurrency: questions under way. deadline: seconds for all questions of a batch. most_failed: the share
    of a batch that may stay unanswered; 0 refuses a single one. cache: a file to remember answers in, over restarts.
    """

    url: str
    model: str
    key: str | None = None
    temperature: float = 0.0
    tokens: int = 16
    timeout: float = 30.0
    retries: int = 3
    pause: float = 0.5
    concurrency: int = 8
    deadline: float = 600.0
    most_failed: float = 0.5
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise JudgeError(f"a judge's url starts with http:// or https://, got {self.url!r}")
        positive = ("tokens", "timeout", "concurrency", "deadline")
        wrong = {name: getattr(self, name) for name in positive if getattr(self, name) <= 0}
        if wrong or self.retries < 0 or self.pause < 0 or not 0 <= self.most_failed <= 1:
            raise JudgeError(
                f"need {', '.join(positive)} above 0, retries and pause 0 or more and most_failed in 0..1, got {self}"
            )


class Memory:
    """Replies by content of the question, the last `limit` of them; in a file as well, if there is one."""

    def __init__(self, path: str | Path | None = None, limit: int = 100_000):
        self.limit, self.path = limit, None if path is None else Path(path)
        self._replies: OrderedDict[str, str] = OrderedDict()
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            said = json.loads(line)
            self._keep(said["key"], said["reply"])
        except (ValueError, TypeError, KeyError):
            log.warning("%s: a line that is no remembered answer is passed over: %r", self.path, line[:80])

    def _keep(self, key: str, reply: str) -> None:
        if not isinstance(key, str) or not isinstance(reply, str):
            raise TypeError("key and reply are texts")
        self._replies[key] = reply
        while len(self._replies) > self.limit:
            self._replies.popitem(last=False)

    def get(self, key: str) -> str | None:
        return self._replies.get(key)

    def put(self, key: str, reply: str) -> None:
        self._keep(key, reply)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "reply": reply}) + "\n")
        except OSError as error:
            log.warning("%s: answers are remembered in memory only from here on: %s", self.path, error)
            self.path = None


@dataclass
class _Batch(Generic[T]):
    """What happens to the questions of one call."""

    read: Read[T]
    ends: float  # monotonic seconds
    faults: Counter[str] = field(default_factory=Counter)
    last: str = ""


class Peer:
    """Asks an endpoint. faults: failed tries by kind, over all batches: timeout, connection, server, malformed ..."""

    def __init__(self, name: str, endpoint: Endpoint):
        self.name, self.endpoint = name, endpoint
        self.memory, self.faults = Memory(endpoint.cache), Counter[str]()

    @property
    def place(self) -> str:
        return f"judge {self.name!r} ({self.endpoint.model} at {self.endpoint.url})"

    def ask(self, questions: Sequence[Messages], read: Read[T]) -> list[T | None]:
        """What every reply says; None where there was no reply that could be read, after all tries.

        JudgeError: the peer refuses the questions (an unknown model, a wrong key ...), or too many failed.
        """
        if not questions:
            return []
        keys = [self._key(question) for question in questions]
        known = {key: value for key in keys if (value := self._remembered(key, read)) is not None}
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        if missing:
            batch = _Batch(read, time.monotonic() + self.endpoint.deadline)
            # A loop of its own in a thread of its own: the caller may be inside one.
            with ThreadPoolExecutor(1) as thread:
                known |= thread.submit(asyncio.run, self._ask(missing, batch)).result()
            self.faults += batch.faults
            self._check([known.get(key) for key in keys], batch)
        return [known.get(key) for key in keys]

    def _key(self, question: Messages) -> str:
        said = {"messages": [dict(message) for message in question]}
        for name in ("url", "model", "temperature", "tokens"):
            said[name] = getattr(self.endpoint, name)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _remembered(self, key: str, read: Read[T]) -> T | None:
        reply = self.memory.get(key)
        return None if reply is None else read(reply)

    def _check(self, answers: Sequence[Any], batch: _Batch[Any]) -> None:
        failed = sum(answer is None for answer in answers)
        if not failed:
            return
        said = f"{failed} of {len(answers)} questions have no answer; failed tries: {dict(batch.faults)}; {batch.last}"
        if failed > self.endpoint.most_failed * len(answers):
            raise JudgeError(
                f"{self.place}, phase answer: {said}. That is more than most_failed={self.endpoint.most_failed:g} "
                "allows: see that the server is well, give it more time (timeout, deadline) or less to do (concurrency)"
            )
        log.warning("%s: %s", self.place, said)

    async def _ask(self, questions: Mapping[str, Messages], batch: _Batch[T]) -> dict[str, T]:
        async with _client(self.endpoint) as client:
            slots = asyncio.Semaphore(self.endpoint.concurrency)
            tasks = {key: asyncio.create_task(self._tried(client, slots, q, batch)) for key, q in questions.items()}
            try:
                found = await asyncio.gather(*tasks.values())
            finally:
                for task in tasks.values():
                    task.cancel()  # the others, if one question was refused
        answers = {}
        for key, reply in zip(tasks, found, strict=True):
            if reply is not None:
                self.memory.put(key, reply[0])
                answers[key] = reply[1]
        return answers

    async def _tried(
        self, client: Any, slots: asyncio.Semaphore, question: Messages, batch: _Batch[T]
    ) -> tuple[str, T] | None:
        """The reply and what it says."""
        for attempt in range(self.endpoint.retries + 1):
            if attempt:
                await asyncio.sleep(min(self.endpoint.pause * 2 ** (attempt - 1), max(0.0, self._left(batch))))
            async with slots:
                if self._left(batch) <= 0:
                    batch.faults["deadline"] += 1
                    batch.last = f"the batch's deadline of {self.endpoint.deadline:g} s passed"
                    return None
                reply = await self._once(client, question, batch)
            if reply is not None:
                said = batch.read(reply)
                if said is not None:
                    return reply, said
                batch.faults["malformed"] += 1
                batch.last = f"last reply that could not be read: {reply[:80]!r}"
        return None

    async def _once(self, client: Any, question: Messages, batch: _Batch[T]) -> str | None:
        import openai

        asked = self.endpoint
        try:
            # The library's timeout is between two bytes; this one is for the whole answer.
            async with asyncio.timeout(min(asked.timeout, self._left(batch))):
                reply = await client.chat.completions.create(
                    model=asked.model,
                    messages=[dict(message) for message in question],
                    temperature=asked.temperature,
                    max_tokens=asked.tokens,
                )
            text = reply.choices[0].message.content
        except (TimeoutError, openai.APITimeoutError):
            return self._fault(batch, "timeout", f"no answer within {asked.timeout:g} s")
        except openai.APIConnectionError as error:
            return self._fault(batch, "connection", f"{error} ({error.__cause__})")
        except openai.APIStatusError as error:
            if error.status_code < 500 and error.status_code not in (408, 409, 429):
                raise JudgeError(
                    f"{self.place}, phase question: it refuses with status {error.status_code}: {str(error)[:300]}; "
                    "check the judge's model and key"
                ) from error
            return self._fault(batch, "server", f"status {error.status_code}")
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, IndexError, KeyError) as error:
            # Whatever came was no chat completion.
            return self._fault(batch, "malformed", f"no chat completion: {type(error).__name__} {str(error)[:80]}")
        return text if isinstance(text, str) else self._fault(batch, "malformed", "a completion without text")

    def _fault(self, batch: _Batch[T], kind: str, said: str) -> None:
        batch.faults[kind] += 1
        batch.last = f"last fault: {kind}, {said}"

    def _left(self, batch: _Batch[T]) -> float:
        return batch.ends - time.monotonic()


def _client(endpoint: Endpoint) -> Any:
    try:
        import openai
    except ImportError as error:
        raise JudgeError("judges behind an API need the openai client: pip install 'policyopt[judges]'") from error
    key = "none" if endpoint.key is None else os.environ.get(endpoint.key)
    if not key:
        raise JudgeError(f"a judge's key is in the environment variable {endpoint.key!r}, which is not set")
    # Retries are counted here, with one deadline for all.
    return openai.AsyncOpenAI(base_url=endpoint.url, api_key=key, max_retries=0, timeout=endpoint.timeout)


def settings(endpoint: Endpoint) -> dict[str, Any]:
    """For reports: everything but nothing secret (the key is only named)."""
    return asdict(endpoint)
