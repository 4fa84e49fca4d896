"""The short way from a request to the function of its route, without FastAPI's layers.

Owns the way for functions that take the request, texts of the path and plain query parameters, and
return a response. FastAPI describes them in /openapi.json all the same; it serves every route that
takes more, and every request that is not plainly valid, so what is refused is refused by one and
the same. Which route serves a request, and how its errors are answered (`error_map`), is the same
either way too. FastAPI's layers cost more than a short request's own work. Source:
docs/explanation/performance.md.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeAlias, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.params import Query
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from cluster.api.error_map import answer_to

Endpoint: TypeAlias = Callable[..., Awaitable[Response]]
Read: TypeAlias = Callable[[str], object]
"""From a parameter's text to its value; None for what FastAPI shall judge."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,15}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One parameter of a query."""

    read: Read
    repeated: bool
    required: bool


@dataclass(frozen=True, slots=True)
class _Way:
    """A function that can be called directly, and its query."""

    endpoint: Endpoint
    query: Mapping[str, _Parameter]
    required: frozenset[str]

    def arguments(self, query: bytes) -> dict[str, object] | None:
        """Return the arguments in a query, or None for what FastAPI shall judge."""
        arguments: dict[str, object] = {}
        repeated: dict[str, list[object]] = {}
        # As Starlette reads it; of a parameter that is given twice, the last counts.
        for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            parameter = self.query.get(name)
            if parameter is None:
                continue
            value = parameter.read(text)
            if value is None:
                return None
            if parameter.repeated:
                repeated.setdefault(name, []).append(value)
            else:
                arguments[name] = value
        arguments.update(repeated)
        return arguments if self.required <= arguments.keys() else None


@dataclass(frozen=True, slots=True)
class Found:
    """A route that serves a request, and its function's arguments."""

    route: APIRoute
    endpoint: Endpoint
    arguments: Mapping[str, object]

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["route"] = self.route
        request = Request(scope, receive)
        try:
            response = await self.endpoint(request, **self.arguments)
        except Exception as error:
            response, foreseen = await answer_to(request, error)
            if not foreseen:
                # As Starlette does it: answered, and raised once more for the server.
                await response(scope, receive, send)
                raise
        await response(scope, receive, send)


class DirectRoutes:
    """Finds the routes that can be called directly."""

    def __init__(self) -> None:
        # By method and by how many slashes a path has: no parameter of a path holds one.
        self._by_place: dict[tuple[str, int], list[tuple[APIRoute, _Way | None]]] = {}

    def add(self, routes: Iterable[BaseRoute]) -> None:
        """Take routes in the order in which they are tried."""
        for route in routes:
            if isinstance(route, APIRoute):
                way = _way(route)
                for method in route.methods or ():
                    place = (method, route.path.count("/"))
                    self._by_place.setdefault(place, []).append((route, way))

    def find(self, scope: Scope) -> Found | None:
        """Return what serves a request, or None where FastAPI shall answer it."""
        path: str = scope["path"]
        for route, way in self._by_place.get((scope["method"], path.count("/")), ()):
            match = route.path_regex.match(path)
            if match is None:
                continue
            asked = None if way is None else way.arguments(scope["query_string"])
            if way is None or asked is None:
                return None
            asked.update(match.groupdict())
            return Found(route, way.endpoint, asked)
        return None


def _way(route: APIRoute) -> _Way | None:
    """Return how to call a route's function directly, or None if it takes more."""
    endpoint: Callable[..., Any] = route.endpoint
    signature = inspect.signature(endpoint)
    gives = signature.return_annotation is Response and inspect.iscoroutinefunction(endpoint)
    given = {"request": Request, **dict.fromkeys(route.param_convertors, str)}
    query: dict[str, _Parameter] = {}
    for name, taken in signature.parameters.items():
        if name in given:
            if taken.annotation is not given.pop(name):
                return None
        elif (parameter := _parameter(taken)) is not None:
            query[name] = parameter
        else:
            return None
    if not gives or given:
        return None
    return _Way(endpoint, query, frozenset(name for name, one in query.items() if one.required))


def _parameter(taken: inspect.Parameter) -> _Parameter | None:
    """Return how a query's parameter is read, or None for one that is not plain."""
    kind, required = taken.annotation, taken.default is inspect.Parameter.empty
    if get_origin(kind) is Annotated:
        kind, *said = get_args(kind)
        if not all(isinstance(one, Query) and not (one.metadata or one.alias) for one in said):
            return None
    elif not isinstance(kind, type | UnionType):
        return None
    if kind == Sequence[str]:
        return _Parameter(str, repeated=True, required=required)
    read = _reader(kind)
    return read and _Parameter(read, repeated=False, required=required)


def _reader(kind: object) -> Read | None:
    """Return what reads a value of a type."""
    if isinstance(kind, UnionType):
        kinds = [one for one in get_args(kind) if one is not NoneType]
        return _reader(kinds[0]) if len(kinds) == 1 else None
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {member.value: member for member in kind}.get
    return {str: str, int: _whole, float: _number}.get(kind)  # type: ignore[call-overload,no-any-return]  # a type, or nothing that is found


def _whole(text: str) -> int | None:
    return int(text) if _WHOLE.fullmatch(text) else None


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None
