"""The reference of the HTTP API: its routes, its bodies, and who may do what."""

import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from types import ModuleType, UnionType
from typing import TYPE_CHECKING, Annotated, Union, get_args, get_origin

import msgspec
from fastapi.routing import APIRoute, APIWebSocketRoute

from cluster.api import (
    membership,
    routes_admin,
    routes_agent,
    routes_audit,
    routes_checkpoint,
    routes_cluster,
    routes_configs,
    routes_join,
    routes_managers,
    routes_metrics,
    routes_rollouts,
    routes_secrets,
    routes_services,
)
from cluster.control import service_draft
from cluster.control.policy import Action, Principal, Resource, Role, authorize
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId

if TYPE_CHECKING:
    from fastapi import APIRouter

_LISTENERS: dict[str, tuple[ModuleType, ...]] = {
    "7443: a certificate is required": (
        routes_secrets,
        routes_configs,
        routes_services,
        routes_rollouts,
        routes_cluster,
        routes_audit,
        routes_checkpoint,
        routes_metrics,
        routes_agent,
        routes_managers,
    ),
    "7444: no certificate": (routes_join,),
    "The admin socket": (routes_admin,),
}
_BODIES_OF = {routes_services: service_draft, routes_join: membership}
"""Where the bodies of a module's routes are, besides the module itself."""

_TYPES: dict[object, str] = {
    str: "string",
    bytes: "base64",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}

_INTRODUCTION = """\
# HTTP API

Written by `make docs` from the routes; do not edit. A manager serves the description in OpenAPI's
terms at `/openapi.json` of each listener.

JSON in and out, except that a secret's value, or a config's content, is the raw body of its request
(`application/octet-stream`); no answer on operators' routes has a field that could hold a secret's
value. A config's content is answered in base64, on a route of its own.
Binary fields (certificates, requests) are base64 of DER. Unknown fields are refused. Nothing is
cacheable. An error is `{"code", "message", "retryable"}`, see [errors](errors.md); it may name an
object and quotes nothing else of the request.

`Strongroom-Revision` comes with every answer: the revision it is true at. Sent back, it makes a
manager answer only once its view has reached it.

`Strongroom-Request-Id` comes with every answer, except where a limit refused the request before any
work; the manager's log events of that request carry it, and the audit entry of a write. It may be
sent with any request and should be with writes: 26 characters of base32, drawn afresh for each
write and kept when it is sent again. The write is then done once, and the first answer comes back,
except that a token's text is shown once only. Remembered for 10 minutes, bound to caller and body.

Secrets, configs, services and nodes are listed by name. `limit=1..1000` asks for a page, which may
be shorter; `next` in its answer is the last name of the page if there is more, else null, and
`after=NAME` gives the page that follows. Filters and the caller's labels come first. What stays
while pages are read is told once. Without `limit` an answer is whole, or refused if it is too long
([limits](limits.md)).

A rollout's progress is polled: `GET /v1/rollouts/{rollout_id}?wait=SECONDS` answers when it is done
or the time is over, 30 s at most."""


def api_page() -> str:
    """Return the API reference."""
    lines = [_INTRODUCTION]
    for listener, modules in _LISTENERS.items():
        lines += ["", f"## {listener}", "", "| method and path | what it does |", "|---|---|"]
        lines += [row for module in modules for row in _routes(module)]
        lines += ["", "| body | field | type | default |", "|---|---|---|---|"]
        sources = [s for m in modules for s in (_BODIES_OF.get(m), m) if s is not None]
        lines += [row for source in sources for row in _bodies(source)]
    lines += ["", "## Who may do what", "", *_rights(), ""]
    return "\n".join(lines)


def _routes(module: ModuleType) -> Iterator[str]:
    # Routers only keep their parts for later; to be described they need none.
    router: APIRouter = module.routes(*[None] * len(inspect.signature(module.routes).parameters))
    for route in router.routes:
        if isinstance(route, APIRoute | APIWebSocketRoute):
            methods = sorted(getattr(route, "methods", None) or ["WebSocket"])
            text = inspect.getdoc(route.endpoint) or ""
            for method in methods:
                yield f"| `{method} {route.path}` | {' '.join(text.split())} |"


def _bodies(module: ModuleType) -> Iterator[str]:
    for name, body in vars(module).items():
        if not (inspect.isclass(body) and issubclass(body, msgspec.Struct)):
            continue
        if body.__module__ == module.__name__ and not name.startswith("_"):
            for field in msgspec.structs.fields(body):
                cells = (name, f"`{field.encode_name}`", _type(field.type), _default(field))
                yield f"| {' | '.join(cells)} |"


def _type(hint: object) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in {Union, UnionType}:
        return " or ".join(_type(one) for one in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "object of strings"
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    return _TYPES.get(hint) or str(getattr(hint, "__name__", hint))


def _default(field: msgspec.structs.FieldInfo) -> str:
    match field.default:
        case _ if field.required:
            return "required"
        case msgspec.NODEFAULT | None | "" | ():
            return ""
        case Enum() as member:
            return f"`{member.value}`"
        case bool() as flag:
            return f"`{str(flag).lower()}`"
        case other:
            return f"`{other}`"


def _rights() -> list[str]:
    """Return the policy's table, asked entry by entry."""
    roles = [role for role in Role if role is not Role.ANONYMOUS]
    lines = [
        "`all`: on everything; `labels`: on objects that carry all labels of the operator; `own`:",
        "on what is the caller's; empty: refused. Lists show a deployer what carries his labels.",
        "Joining, returning and enrolling need no certificate but a token or an old key. A",
        "service's certificate may do nothing.",
        "",
        "| action | " + " | ".join(role.value for role in roles) + " |",
        "|---" * (len(roles) + 1) + "|",
    ]
    for action in Action:
        cells = [_reach(role, action) for role in roles]
        if any(cells):
            lines.append(f"| {action.value} | " + " | ".join(cells) + " |")
    return lines


def _reach(role: Role, action: Action) -> str:
    labels = {"scope": "x"}
    principal = Principal(SpiffeId("example", Kind.OPERATOR, "me"), "me", role, labels)
    for word, resource in (
        ("all", Resource("kind")),
        ("labels", Resource("kind", labels=labels)),
        ("own", Resource("kind", owner="me")),
    ):
        try:
            authorize(principal, action, resource, datetime.fromtimestamp(0, UTC))
        except PermissionDenied:
            continue
        return word
    return ""
