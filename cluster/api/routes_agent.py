"""What agents call on the listener that requires a certificate: the session and `POST
/v1/issue`."""

import msgspec
import structlog
from fastapi import APIRouter, Request, WebSocket, WebSocketDisconnect
from starlette.responses import Response

from cluster.api.edge import Edge, decoded
from cluster.api.peer import caller_of
from cluster.control.callers import principal_of
from cluster.control.policy import Action, Principal, Resource, Role
from cluster.control.requests import Requests
from cluster.dispatcher.issue import Issue
from cluster.dispatcher.sessions import AgentSession, SessionParts
from cluster.pki.node_envelope import ISSUE, Recipient
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError, PermissionDenied, SessionExpired
from cluster.protocol.ids import NodeId

log = structlog.get_logger(__name__)


class IssueRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which secret, for which service on this node."""

    service: str
    secret: str
    """The secret's name or the target it has in the service."""
    envelope_keys: tuple[wire.EnvelopeKey, ...]
    """Pairs of suite and public key (base64), made for this request: what the value is sealed
    to."""


class SocketLink:
    """A WebSocket as a session's link: binary frames, one message each."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send(self, message: wire.FromManager) -> None:
        """Send one message."""
        try:
            await self._socket.send_bytes(wire.encode(message))
        except (WebSocketDisconnect, RuntimeError):
            # Starlette raises RuntimeError when the other side has closed already.
            raise SessionExpired from None

    async def receive(self) -> wire.FromAgent:
        """Return the next message."""
        try:
            frame = await self._socket.receive()
        except (WebSocketDisconnect, RuntimeError):
            raise SessionExpired from None
        data = frame.get("bytes")
        if frame["type"] != "websocket.receive" or data is None:
            raise SessionExpired
        return wire.decode_from_agent(data)


def routes(edge: Edge, requests: Requests, parts: SessionParts, issue: Issue) -> APIRouter:
    """Return the routes for agents."""
    router = APIRouter(prefix="/v1", tags=["agents"])

    @router.websocket("/session")
    async def session(socket: WebSocket) -> None:
        """One agent's session."""
        await socket.accept()
        link = SocketLink(socket)
        address = socket.client.host if socket.client else ""
        try:
            principal = principal_of(caller_of(socket.scope), edge.store.view, address)
            node_id = _node(requests, principal, Action.SESSION_OPEN, Resource("session"))
            await AgentSession(parts, node_id, link, address).run()
        except* ClusterError as group:
            await _refuse(socket, link, _first(group))

    @router.post("/issue")
    async def issue_secret(request: Request) -> Response:
        """Return one secret that is assigned to the calling node, sealed to a key of its choice."""
        principal = await edge.principal(request)
        wanted = await decoded(request, IssueRequest)
        node_id = _node(requests, principal, Action.SECRET_ISSUE, Resource("secret"))
        recipient = Recipient.choose(wanted.envelope_keys, node_id, ISSUE)
        try:
            issued = await issue.issue(node_id, wanted.service, wanted.secret, recipient)
        except PermissionDenied:
            requests.note_refusal(principal, Action.SECRET_ISSUE, Resource("secret"))
            raise
        headers = {
            "cache-control": "no-store",
            "strongroom-version": str(issued.version),
            "strongroom-envelope": recipient.suite.value,
        }
        content = wire.encode(issued.values)
        return Response(content, 200, headers, media_type="application/octet-stream")

    return router


def _node(requests: Requests, principal: Principal, action: Action, resource: Resource) -> NodeId:
    """Return the calling node's id, or raise PermissionDenied for whoever is no node."""
    own = principal.identity.subject if principal.identity and principal.role is Role.NODE else ""
    requests.check(principal, action, Resource(resource.kind, owner=own))
    return NodeId(own)


def _first(group: BaseExceptionGroup[ClusterError]) -> ClusterError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, ClusterError):
        raise error
    return error


async def _refuse(socket: WebSocket, link: SocketLink, error: ClusterError) -> None:
    """Say why the session ends, if anybody still listens."""
    log.info("session.refused", code=error.code)
    try:
        await link.send(wire.Refusal(error.code, error.message))
        await socket.close(1008)
    except (SessionExpired, RuntimeError):
        return
