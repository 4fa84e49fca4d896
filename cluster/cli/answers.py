"""Reading a manager's JSON answers: each field has the type asked for, or the answer is refused."""

import json

from cluster.protocol.errors import MalformedMessage

Answer = dict[str, object]


def parse(body: bytes) -> Answer:
    """Return the object in `body`, or raise MalformedMessage."""
    try:
        content = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise MalformedMessage("the manager's answer is not what this command reads")
    return content


def text(answer: Answer, key: str) -> str:
    """Return a text field."""
    value = answer.get(key)
    if not isinstance(value, str):
        raise _missing(key)
    return value


def number(answer: Answer, key: str, default: int | None = None) -> int:
    """Return a whole number."""
    value = answer.get(key, default)
    if not isinstance(value, int):
        raise _missing(key)
    return value


def nested(answer: Answer, key: str) -> Answer:
    """Return an object within the answer."""
    value = answer.get(key)
    if not isinstance(value, dict):
        raise _missing(key)
    return value


def rows(answer: Answer, key: str) -> list[Answer]:
    """Return a list of objects."""
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _missing(key)
    return value


def texts(answer: Answer, key: str) -> tuple[str, ...]:
    """Return a list of texts."""
    value = answer.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _missing(key)
    return tuple(value)


def _missing(key: str) -> MalformedMessage:
    return MalformedMessage(
        f"the manager's answer has no usable field {key}; is it of another version?"
    )
