"""One operator's way to the managers: mutual TLS, resending, renewal, and what was seen last.

A write carries a request id. When its outcome is not known the same request goes to the next
manager under the same id, so that it is done once and the answer is the first one. Every request
carries the newest revision this context has seen, so any manager answers with at least that state.
Source: DESIGN 3 and 5.
"""

import ssl
import time
from argparse import Namespace
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from cluster.cli.answers import Answer, parse, rows, text
from cluster.cli.context_files import Context, ContextFiles, Seen, merged
from cluster.cli.failures import error_of
from cluster.cli.output import warn
from cluster.cli.settings import read_settings
from cluster.pki.tls import client_context
from cluster.protocol.errors import (
    ClusterError,
    InvalidRequest,
    MalformedMessage,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
)
from cluster.protocol.https_client import Response, request, stream_lines
from cluster.protocol.ids import ID_SIZE, Revision, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import Clock, Entropy, SystemClock, SystemEntropy

ANSWER_TIMEOUT_S: Final = 30.0
PATIENCE_S: Final = 3.0
"""How long another manager is looked for: an engine's election takes less."""
SETTLE_S: Final = 20.0
"""How long the same write is sent again to learn its outcome."""
PAUSE_S: Final = 0.2
PAGE: Final = "1000"
"""Entries of a page of a list: the most that a manager gives."""
ERRORS: Final = 400
"""Where HTTP's errors begin."""

REQUEST_ID_HEADER: Final = "strongroom-request-id"
REVISION_HEADER: Final = "strongroom-revision"
NOTHING_SEEN: Final = f"0.{'a' * 26}.0"
"""A revision of a life before every store's."""

Query = Sequence[tuple[str, str]]


class Connection:
    """Sends requests as the operator of a context."""

    def __init__(
        self, files: ContextFiles, context: Context, clock: Clock, entropy: Entropy
    ) -> None:
        self.context = context
        self._files = files
        self.clock = clock
        self._entropy = entropy
        self.verbose = False
        self._seen = files.seen(context.name)
        self._check_and_renew()

    def get(self, path: str, query: Query = (), *, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Return what a manager answers; any that can answer will do."""
        return self._call("GET", path, query, None, {}, timeout_s)

    def rows(self, path: str, key: str, query: Query = ()) -> list[Answer]:
        """Return a whole list, in as many pages as it takes.

        Pages go on after the last name that was told: whatever is there from the first to the last
        of them is told once, also while others come and go.
        """
        found: list[Answer] = []
        after = ""
        while True:
            part = [*query, ("limit", PAGE), *([("after", after)] if after else ())]
            answer = self.get(path, part)
            found += rows(answer, key)
            if answer.get("next") is None:  # a manager of 0.1.0 knows no pages
                return found
            if text(answer, "next") <= after:
                raise MalformedMessage("the pages of the manager's list do not come to an end")
            after = text(answer, "next")

    def get_of(self, endpoint: str, path: str, query: Query = ()) -> Answer:
        """Return what one manager answers, asked once, at an address that a manager told."""
        target = path + _query_text(query)
        headers = {REQUEST_ID_HEADER: format_id(self._entropy.token(ID_SIZE))}
        return self._exchange((endpoint,), "GET", target, None, headers, ANSWER_TIMEOUT_S)

    def judge(self, path: str, file: bytes, *, timeout_s: float) -> Answer:
        """Return what a manager finds in a file. Nothing is changed, and nothing is said of what
        was seen before: a store that went back shall say so, and not that it lags."""
        headers = {"content-type": "application/json", REVISION_HEADER: NOTHING_SEEN}
        return self._call("POST", path, (), SecretBytes(file), headers, timeout_s)

    def write(
        self,
        method: str,
        path: str,
        content: object = None,
        *,
        query: Query = (),
        value: SecretBytes | None = None,
    ) -> Answer:
        """Change something, once: a JSON body, or a secret's value as it is.

        Raises OutcomeUnknown when no manager could tell whether it was done.
        """
        headers: dict[str, str] = {}
        body = value
        if value is not None:
            headers["content-type"] = "application/octet-stream"
        elif content is not None:
            body = _encoded(content)
            headers["content-type"] = "application/json"
        return self._call(method, path, query, body, headers, ANSWER_TIMEOUT_S)

    def lines(
        self, path: str, query: Query = (), *, turn: int = 0, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Iterator[bytes]:
        """Yield the lines of one answer as they come; `turn` says which manager is asked first.

        The revision that was seen is not raised by what they tell: the caller keeps that himself.
        Raises Unavailable or MalformedMessage when it breaks off: nothing is asked again.
        """
        at = turn % len(self.endpoints)
        headers = {REVISION_HEADER: self._seen.revision} if self._seen.revision else {}
        with stream_lines(
            (*self.endpoints[at:], *self.endpoints[:at]),
            "GET",
            path + _query_text(query),
            headers=headers,
            context=self._tls(),
            trust_domain=self.context.trust_domain,
            timeout_s=timeout_s,
        ) as answer:
            error = error_of(answer.status, b"" if answer.status < ERRORS else answer.read())
            if error is not None:
                raise error
            yield from answer.lines()

    def remember_managers(self, endpoints: Sequence[str]) -> None:
        """Keep the addresses of all managers, so that any of them may be lost."""
        if endpoints:
            self._remember(Seen(self._seen.revision, tuple(endpoints)))

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every manager's address that is known, the newest list first."""
        return merged(self._seen.endpoints, self.context.endpoints)

    def _call(
        self,
        method: str,
        path: str,
        query: Query,
        body: SecretBytes | None,
        headers: dict[str, str],
        timeout_s: float,
    ) -> Answer:
        target = path + _query_text(query)
        headers = {REQUEST_ID_HEADER: format_id(self._entropy.token(ID_SIZE)), **headers}
        started = self.clock.monotonic_s()
        endpoints, turn, unsettled = self.endpoints, 0, False
        while True:
            at = turn % len(endpoints)
            order = (*endpoints[at:], *endpoints[:at])
            try:
                answer = self._exchange(order, method, target, body, headers, timeout_s)
            except (Unavailable, TimeoutError) as error:
                failure = error
            except ClusterError as error:
                error.add_note(request_note(headers))
                raise
            else:
                self._tell(method, path, headers)
                return answer
            turn += 1
            # Once a write may have been done, no later refusal to answer makes it undone.
            unsettled = unsettled or _may_be_done(method, failure)
            waited = self.clock.monotonic_s() - started
            # Time alone does not end it: every manager has been asked, one of them twice.
            if waited >= (SETTLE_S if unsettled else PATIENCE_S) and turn > len(endpoints):
                ending = _given_up(failure, unsettled=unsettled)
                ending.add_note(request_note(headers))
                raise ending
            if turn % len(endpoints) == 0:
                time.sleep(PAUSE_S)

    def _tell(self, method: str, path: str, headers: dict[str, str]) -> None:
        if self.verbose:
            warn(f"{method} {path}: {request_note(headers)}")

    def _exchange(
        self,
        endpoints: Sequence[str],
        method: str,
        target: str,
        body: SecretBytes | None,
        headers: dict[str, str],
        timeout_s: float,
    ) -> Answer:
        if self._seen.revision:
            headers = {REVISION_HEADER: self._seen.revision, **headers}
        response = request(
            endpoints,
            method,
            target,
            body=body.reveal() if body is not None else None,
            headers=headers,
            context=self._tls(),
            trust_domain=self.context.trust_domain,
            timeout_s=timeout_s,
        )
        self._note_revision(response)
        error = error_of(response.status, response.body)
        if error is not None:
            raise error
        return parse(response.body)

    def _tls(self) -> ssl.SSLContext:
        return client_context(
            [b64decode(der) for der in self.context.control],
            self.context.chain_pem.encode("ascii"),
            self.context.key_pem.reveal(),
        )

    def _note_revision(self, response: Response) -> None:
        revision = response.headers.get(REVISION_HEADER, "")
        if revision and _is_newer(revision, self._seen.revision):
            self._remember(Seen(revision, self._seen.endpoints))

    def _remember(self, seen: Seen) -> None:
        if seen != self._seen:
            self._seen = seen
            self._files.remember(self.context.name, seen)

    def _check_and_renew(self) -> None:
        """Renew the certificate when it is due; raise Unauthenticated when it has run out."""
        now_s = self.clock.now().timestamp()
        if now_s >= self.context.not_after:
            raise Unauthenticated(
                f"the certificate of operator {self.context.operator} has expired; run "
                f"`strongroom operator renew {self.context.operator}` on a manager, "
                "or enrol again with a new token"
            )
        if now_s >= self.context.renew_at:
            from cluster.cli.renewal import renew_on_use

            self.context = renew_on_use(
                self._files, self.context, self._send_renewal, self._entropy
            )

    def _send_renewal(self, content: object) -> Answer:
        """Ask for a certificate, once: two lost answers in a row would shut the operator out."""
        headers = {"content-type": "application/json"}
        return self._exchange(
            self.endpoints, "POST", "/v1/renew", _encoded(content), headers, ANSWER_TIMEOUT_S
        )


def connect(args: Namespace) -> Connection:
    """Return the connection of the context that the flags and the environment name."""
    files = ContextFiles(read_settings())
    connection = Connection(files, files.chosen(args.context), SystemClock(), SystemEntropy())
    connection.verbose = getattr(args, "verbose", False)
    return connection


def request_note(headers: Mapping[str, str]) -> str:
    """Return how a request's id is told: the same words stand in the managers' logs and audit."""
    return f"request {headers[REQUEST_ID_HEADER]}"


def path_of(*parts: str) -> str:
    """Return an API path; names are quoted, so that none reaches another route."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _query_text(query: Query) -> str:
    pairs = [f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in query]
    return "?" + "&".join(pairs) if pairs else ""


def _encoded(content: object) -> SecretBytes:
    import json

    return SecretBytes(json.dumps(content).encode())


def _may_be_done(method: str, failure: ClusterError | TimeoutError) -> bool:
    return method != "GET" and isinstance(failure, OutcomeUnknown)


def _given_up(failure: ClusterError | TimeoutError, *, unsettled: bool) -> Exception:
    if unsettled:
        return OutcomeUnknown(
            "whether the change was made is not known; look at it before you ask for it again"
        )
    return failure


def _is_newer(revision: str, than: str) -> bool:
    """Return whether a revision lies after another; a newer life of the store beats any number."""
    try:
        found = Revision.parse(revision)
        known = Revision.parse(than) if than else None
    except InvalidRequest:
        return False
    if known is None:
        return True
    return (found.incarnation.counter, found.number) > (known.incarnation.counter, known.number)
