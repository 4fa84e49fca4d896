"""Records looked up as they are asked for."""

import pytest

from cluster.control.live_records import LiveRecords


def test_it_shows_what_is_there_when_it_is_asked() -> None:
    rows = {"a": 1}
    live = LiveRecords(rows.get, lambda: iter(rows))
    assert (live["a"], live.get("b"), dict(live)) == (1, None, {"a": 1})
    rows["b"] = 2
    assert ("b" in live, len(live)) == (True, 2)
    del rows["a"]
    assert "a" not in live
    with pytest.raises(KeyError):
        live["a"]


def test_what_is_not_shown_is_not_there() -> None:
    rows = {"a": 1, "b": 2}
    even = LiveRecords(lambda key: n if (n := rows.get(key, 1)) % 2 == 0 else None, rows.__iter__)
    assert dict(even) == {"b": 2}
    assert "a" not in even


def test_looking_one_up_looks_at_no_other() -> None:
    asked: list[str] = []

    def find(key: str) -> int:
        asked.append(key)
        return 1

    live = LiveRecords(find, lambda: iter(str(n) for n in range(1_000)))
    assert live["7"] == 1
    assert "8" in live
    assert asked == ["7", "8"]
