"""Examples of messages and records: something in every field, `CANARY` wherever a text fits."""

import enum
import types
import typing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tests.fuzz.target import CANARY

_PLAIN: dict[object, object] = {
    str: CANARY.decode(),
    bytes: CANARY,
    int: 1,
    float: 1.0,
    bool: True,
    datetime: datetime(2026, 1, 1, tzinfo=UTC),
    timedelta: timedelta(seconds=1),
}


def filled(kind: type[msgspec.Struct]) -> bytes:
    """Return an example as msgpack."""
    return msgspec.msgpack.encode(example(kind))


def example(kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Return an example."""
    return kind(**{field.name: _value(field.type) for field in msgspec.structs.fields(kind)})


def _value(annotation: Any) -> object:  # noqa: ANN401  # annotations have no type of their own
    annotation = getattr(annotation, "__supertype__", annotation)  # a NewType
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _value(arguments[0])
    if origin is typing.Literal:
        return arguments[0]
    if origin in {typing.Union, types.UnionType}:
        return _value(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return (_value(arguments[0]),) if Ellipsis in arguments else tuple(map(_value, arguments))
    if origin is dict:
        return {_value(arguments[0]): _value(arguments[1])}
    if origin is not None:  # a set or a list
        return origin((_value(arguments[0]),))
    if issubclass(annotation, enum.Enum):
        return next(iter(annotation))
    return example(annotation)
