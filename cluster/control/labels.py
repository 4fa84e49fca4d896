"""Labels: what may stand in one, and how a set of them is changed. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Final

from cluster.protocol.errors import InvalidRequest

MAX_LABELS: Final = 32
_KEY = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._/-]{0,62}[a-zA-Z0-9])?")
_VALUE = re.compile(r"[a-zA-Z0-9._/@:+-]{0,128}")


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of `labels`, or raise InvalidRequest naming the label that is not valid."""
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"an object takes at most {MAX_LABELS} labels")
    for key, value in labels.items():
        if _KEY.fullmatch(key) is None:
            raise InvalidRequest(
                "label keys take 1 to 64 letters, digits, '.', '_', '/' and '-', and start and end "
                "with a letter or digit"
            )
        if _VALUE.fullmatch(value) is None:
            raise InvalidRequest(
                f"the value of label {key} takes up to 128 letters, digits and . _ / @ : + -"
            )
    return dict(labels)


def changed_labels(
    labels: Mapping[str, str], add: Mapping[str, str], remove: Collection[str]
) -> dict[str, str]:
    """Return `labels` with some added or overwritten and others removed."""
    kept = {key: value for key, value in labels.items() if key not in remove}
    return check_labels({**kept, **add})


def carries(labels: Mapping[str, str], filters: Collection[str]) -> bool:
    """Return whether `labels` satisfy every filter, each `KEY` or `KEY=VALUE`."""
    for text in filters:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True
