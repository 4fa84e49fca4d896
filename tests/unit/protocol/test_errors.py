"""The tree of errors holds together."""

import re

import pytest

from cluster.protocol import errors
from cluster.protocol.errors import ClusterError, IntegrityError, Unavailable


def every_class(root: type[ClusterError]) -> list[type[ClusterError]]:
    return [root, *(one for child in root.__subclasses__() for one in every_class(child))]


CLASSES = [one for one in every_class(ClusterError) if one.__module__ == errors.__name__]


def test_codes_are_stable_names_used_once() -> None:
    codes = [one.code for one in CLASSES]
    assert len(codes) == len(set(codes)) > 20
    assert all(re.fullmatch(r"[a-z][a-z_]*", code) for code in codes)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.code)
def test_messages_read_as_the_house_writes_them(kind: type[ClusterError]) -> None:
    message = kind.default_message
    assert message
    assert not message.endswith(".")
    assert not message[0].isupper()


def test_what_may_work_later_is_retryable_and_broken_data_never() -> None:
    assert all(one.retryable for one in every_class(Unavailable))
    assert not any(one.retryable for one in every_class(IntegrityError))


def test_an_answer_names_its_error_and_an_unknown_code_none() -> None:
    """Also an error whose constructor takes what only the manager knows."""
    for kind in CLASSES[1:]:
        named = errors.error_of(kind.code, "what to do")
        assert (type(named), str(named)) == (kind, "what to do")
    assert errors.error_of("no_such_code", "x") is None
    assert errors.error_of(None, None) is None
