"""Records as plain dictionaries, whatever their layout in the store is."""

from enum import Enum
from typing import Any

import msgspec


def plain(value: Any) -> Any:  # noqa: ANN401  # any field of any record
    """Return a record, or what a field holds, as dictionaries, lists and scalars."""
    match value:
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case tuple() | list() | frozenset():
            return [plain(one) for one in value]
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case Enum():
            return value.value
        case bytes():
            return value.hex()
        case _:
            return value
