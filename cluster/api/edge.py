"""What every route needs: the principal, the request's context, the body, the revision to wait for.

Turns an ASGI request into the arguments of a use case and its result into a response, and nothing
else.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from fastapi import Request
from starlette.responses import Response

from cluster.api.error_map import REVISION_HEADER, json_response, tell_revision
from cluster.api.peer import caller_of
from cluster.api.request_log import REQUEST_ID, REQUEST_ID_HEADER
from cluster.control.callers import principal_of
from cluster.control.policy import Principal
from cluster.control.requests import RequestContext
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.ids import ID_SIZE, Revision, format_id, is_id
from cluster.store.sealed_store import SealedStore
from cluster.system import Entropy

_WHERE = re.compile(r" - at `\$([A-Za-z0-9_.\[\]]{0,80})`$")
"""Only at the end of msgspec's text: what is before it may quote a field's name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Edge:
    """The translation between HTTP and the use cases, for one manager."""

    store: SealedStore
    entropy: Entropy

    async def principal(self, request: Request) -> Principal:
        """Return who calls, with the rights its record gives at this moment, once this manager has
        caught up."""
        await self.catch_up(request)
        address = request.client.host if request.client else "unknown"
        principal = principal_of(caller_of(request.scope), self.store.view, address)
        # A refusal tells of the state it was decided from: whoever hears it must not read an older
        # one from another manager afterwards. A stranger is told nothing of the store's pace.
        if principal.identity is not None:
            tell_revision(request, self.revision)
        return principal

    def revision(self) -> str:
        """Return the newest revision this manager has seen, as it goes into a header."""
        return str(self.store.revision(self.store.view.revision))

    async def context(self, request: Request) -> RequestContext:
        """Return what a write needs: the principal, the request id, and a digest of what was asked.

        A caller that sends no request id gets a fresh one: it cannot resend, and nothing else
        changes.
        """
        principal = await self.principal(request)
        sent = request.headers.get(REQUEST_ID_HEADER)
        if sent is not None and not is_id(sent):
            raise InvalidRequest(
                f"{REQUEST_ID_HEADER} takes 26 characters of base32; draw a fresh one"
            )
        body = await request.body()
        scope = request.scope
        asked = b"\0".join(
            (scope["method"].encode(), scope["path"].encode(), scope["query_string"], body)
        )
        return RequestContext(
            principal=principal,
            request_id=sent
            or request.scope.get(REQUEST_ID)
            or format_id(self.entropy.token(ID_SIZE)),
            digest=self._digest(asked),
        )

    def _digest(self, asked: bytes) -> str:
        """Return a keyed digest: a plain one in the store would let its reader guess short
        values."""
        return self.store.keyring.engine_key(
            "request-digest", hashlib.sha256(asked).hexdigest()
        ).hex()

    async def catch_up(self, request: Request) -> None:
        """Wait until this manager has seen what the caller has seen: read-your-writes on any
        manager."""
        text = request.headers.get(REVISION_HEADER)
        if text is not None:
            await self.store.catch_up(Revision.parse(text))

    def answer(self, content: object, status: int = 200) -> Response:
        """Return a result with the revision it is true at."""
        revision = self.revision()
        if isinstance(content, Mapping) and isinstance(content.get("revision"), str):
            revision = content["revision"]
        return json_response(content, status, {REVISION_HEADER: revision})


async def decoded(request: Request, shape: type[T]) -> T:
    """Return the JSON body as `shape`, or raise InvalidRequest that names the place and never what
    was there."""
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except msgspec.ValidationError as error:
        # msgspec quotes an invalid enum value in its text; only the path is passed on.
        where = _WHERE.search(str(error))
        raise InvalidRequest(
            f"the body is not valid{f' at {where.group(1)}' if where else ''}; see /openapi.json"
        ) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidRequest("the body is not JSON") from None


def labels_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return repeated `key=value` parameters as labels, or raise InvalidRequest."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or key in labels:
            raise InvalidRequest("labels read KEY=VALUE, each key once")
        labels[key] = value
    return labels
