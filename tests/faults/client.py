"""One client of the API: sends, and resends under the same request id until it knows the outcome.

Reads carry the newest revision that any client has seen, so that they must be as fresh as that: by
it, plain reads of whichever manager are linearizable, and are judged so.
"""

import contextlib
import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cluster.protocol.errors import ClusterError, Unavailable
from cluster.protocol.https_client import Response, request
from cluster.protocol.ids import Revision, format_id
from tests.faults.history import FOREVER, History, Operation
from tests.support.running import TRUST_DOMAIN

EXCHANGE_S: Final = 6.0
"""One send; a paused manager holds a client up for so long."""
PATIENCE_S: Final = 25.0
"""After so long an outcome stays unknown."""
RETRYABLE: Final = frozenset({401, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class Newest:
    """The newest revision that anybody has seen."""

    text: str = ""
    _number: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def see(self, text: str) -> None:
        """Take an answer's revision in."""
        if not text:
            return
        number = Revision.parse(text).number
        with self._lock:
            if number > self._number:
                self._number, self.text = number, text


@dataclass(slots=True)
class Answered:
    """A definite answer."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def code(self) -> str:
        """The code of a refusal."""
        found = self.body.get("error", self.body)
        return str(found.get("code", "")) if isinstance(found, dict) else ""


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A write whose outcome is unknown, as it has to be sent again."""

    operation: Operation
    sent_at: float
    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    interpret: "Callable[[Answered], Operation] | None"


@dataclass(slots=True)
class Client:
    """A client with a random of its own."""

    name: str
    history: History
    newest: Newest
    random: random.Random
    context: Callable[[], ssl.SSLContext]
    endpoints: Callable[[], Sequence[str]]
    began: float
    gives_up: float = 0.1
    """How often it leaves an outcome unknown instead of resending."""
    unsettled: list[Unsettled] = field(default_factory=list)
    """Shared by all clients."""

    def now(self) -> float:
        """Return seconds since the run began."""
        return time.monotonic() - self.began

    def run(
        self,
        operation: Operation,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        interpret: Callable[[Answered], Operation] | None = None,
    ) -> Answered | None:
        """Carry an operation out and put it into the history."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        writes = method != "GET" and operation.action != "issue"
        # It starts before it looks up what others have seen: what ends in between is concurrent.
        started = replace(
            operation, number=self.history.next_number(), client=self.name, start=self.now()
        )
        headers = {}
        if operation.action != "issue" and self.newest.text:
            headers["strongroom-revision"] = self.newest.text
        if writes:
            headers["strongroom-request-id"] = format_id(self.random.randbytes(16))
        answer, sends, manager = self._settle(method, path, content, headers, writes=writes)
        done = replace(started, sends=sends, manager=manager)
        if answer is not None:
            done = self._judged(done, answer, interpret)
        if done.outcome == "unknown" and not writes:
            return answer  # a read without an answer says nothing
        if done.outcome == "unknown":
            self.unsettled.append(
                Unsettled(done, self.now(), method, path, content, headers, interpret)
            )
        else:
            self.history.add(done)
        return answer

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        *,
        writes: bool = True,
    ) -> Answered | None:
        """Carry out what no history is kept of; return the answer, None without one."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        headers = {"strongroom-request-id": format_id(self.random.randbytes(16))} if writes else {}
        answer, _, _ = self._settle(method, path, content, headers, writes=writes)
        return answer

    def settle(self, left: Unsettled) -> None:
        """Send a write again, under its request id, when all is at rest and nothing is under way
        any more: now a refusal is as definite as an answer."""
        answer, _, manager = self._settle(
            left.method, left.path, left.body, dict(left.headers), writes=True
        )
        done = replace(left.operation, manager=manager, sends=left.operation.sends + 1)
        if answer is not None:
            done = self._judged(done, answer, left.interpret)
        self.history.add(done)

    def _settle(
        self, method: str, path: str, body: bytes, headers: dict[str, str], *, writes: bool
    ) -> tuple[Answered | None, int, str]:
        deadline = self.now() + PATIENCE_S
        sends = 0
        uncertain = False
        endpoints = list(self.endpoints())
        self.random.shuffle(endpoints)
        for endpoint in endpoints * 100:
            sends += 1
            answer, arrived = self._send(endpoint, method, path, body, headers)
            if answer is not None and answer.status not in RETRYABLE:
                # After a send of unknown fate a refusal settles nothing: the first may still win.
                settled = answer if answer.status < 300 or not uncertain else None
                return settled, sends, endpoint
            if not writes:
                return None, sends, endpoint
            uncertain = uncertain or arrived
            if self.now() > deadline or self.random.random() < self.gives_up:
                break
            time.sleep(self.random.uniform(0.02, 0.3))
        return None, sends, ""

    def _send(
        self, endpoint: str, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[Answered | None, bool]:
        """Return the answer, and whether the request may have arrived."""
        try:
            reply = request(
                [endpoint], method, path, body=body, headers=headers, context=self.context(),
                trust_domain=TRUST_DOMAIN, timeout_s=EXCHANGE_S, monotonic_s=time.monotonic,
            )  # fmt: skip
        except Unavailable:
            return None, method == "GET"
        except (ClusterError, OSError):
            return None, True
        return _read(reply), True

    def _judged(
        self,
        operation: Operation,
        answer: Answered,
        interpret: Callable[[Answered], Operation] | None,
    ) -> Operation:
        revision = answer.headers.get("strongroom-revision", "")
        self.newest.see(revision)
        ended = replace(operation, end=self.now(), revision=revision.rpartition(".")[2])
        if answer.status >= 300:
            if operation.action == "read" and answer.status == 404:
                return replace(ended, outcome="ok", result=None)
            if operation.action in {"read", "issue"}:
                return replace(operation, end=FOREVER)
            return replace(ended, outcome="fail", error=answer.code)
        found = interpret(answer) if interpret is not None else operation
        return replace(ended, outcome="ok", result=found.result, value=found.value)


def _read(reply: Response) -> Answered:
    body: Mapping[str, Any] = {}
    if not reply.headers.get("content-type", "").startswith("application/octet-stream"):
        with contextlib.suppress(ValueError):
            body = json.loads(reply.body)
    return Answered(reply.status, body, reply.headers, reply.body)
