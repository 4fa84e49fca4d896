"""Ids, names, targets and revisions: what is taken, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol.errors import InvalidName, InvalidRequest
from cluster.protocol.ids import (
    Incarnation,
    Revision,
    check_name,
    check_service_name,
    check_target,
    format_id,
    is_id,
)


@given(raw=st.binary(min_size=16, max_size=16))
def test_id_has_its_shape(raw: bytes) -> None:
    assert is_id(format_id(raw))


@pytest.mark.parametrize(
    "text", ["", "a" * 25, "a" * 27, "A" * 26, "a" * 25 + "1", "a" * 26 + "\n"]
)
def test_other_shapes_are_no_id(text: str) -> None:
    assert not is_id(text)


def test_id_takes_sixteen_bytes() -> None:
    with pytest.raises(InvalidRequest):
        format_id(bytes(15))


@pytest.mark.parametrize("name", ["a", "A1", "db.password_v-2", "a" * 64])
def test_names_as_swarm_takes_them(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", ".a", "a/b", "a b", "a\n", "é", "a" * 65])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a_b", "-a", "a-", "a" * 64, "a\n"])
def test_service_names_are_dns_labels(name: str) -> None:
    assert check_service_name("red-1") == "red-1"
    with pytest.raises(InvalidName):
        check_service_name(name)


@pytest.mark.parametrize(
    "target", ["", ".", "..", "..data", ".hidden", "a/b", "/a", "-a", "a.", "a\0", "a\n", "a" * 129]
)
def test_target_cannot_leave_its_directory(target: str) -> None:
    assert check_target("tls.key") == "tls.key"
    with pytest.raises(InvalidName):
        check_target(target)


revisions = st.builds(
    Revision,
    st.builds(
        Incarnation,
        st.integers(min_value=0, max_value=10**20 - 1),
        st.from_regex(r"[a-z2-7]{1,64}", fullmatch=True),
    ),
    st.integers(min_value=0, max_value=10**20 - 1),
)


@given(revision=revisions)
def test_revision_survives_its_text(revision: Revision) -> None:
    assert Revision.parse(str(revision)) == revision


@pytest.mark.parametrize("text", ["", "1", "1.a", "1..2", "x.a.2", "1.a.-2", "1.a.2.3", "1.a.٣"])
def test_other_texts_are_no_revision(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Revision.parse(text)


def test_only_a_higher_counter_supersedes() -> None:
    """Equal counters with different ids are two lives that must not be mixed."""
    seen = Incarnation(5, "a")
    assert Incarnation(5, "a").supersedes(seen)
    assert Incarnation(6, "b").supersedes(seen)
    assert not Incarnation(5, "b").supersedes(seen)
    assert not Incarnation(4, "a").supersedes(seen)
