"""Join tokens have one spelling each, and nothing else parses."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import MalformedJoinToken
from cluster.protocol.ids import TokenId, format_id
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.entropy import SeededEntropy

tokens = st.builds(
    lambda digest, token_id, secret: JoinToken(
        digest.hex(), TokenId(format_id(token_id)), SecretBytes(secret)
    ),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)
PLACES = st.integers(min_value=0, max_value=len("SRTKN-1-") + 52 + 1 + 26 + 1 + 52 - 1)


@given(token=tokens, before=st.sampled_from(["", " ", "\n"]), after=st.sampled_from(["", "\r\n"]))
def test_token_survives_its_text(token: JoinToken, before: str, after: str) -> None:
    parsed = JoinToken.parse(before + token.format() + after)
    assert parsed == token
    assert parsed.secret == token.secret


@given(token=tokens, place=PLACES, letter=st.sampled_from(string.printable))
def test_changed_letter_is_refused_or_another_token(
    token: JoinToken, place: int, letter: str
) -> None:
    text = token.format()
    changed = text[:place] + letter + text[place + 1 :]
    assume(changed.strip() != text)
    try:
        other = JoinToken.parse(changed)
    except MalformedJoinToken:
        return
    assert other != token
    assert other.format() == changed.strip()


@given(text=st.text(max_size=200))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(MalformedJoinToken):
        JoinToken.parse(text)


@given(token=tokens, cut=PLACES)
def test_part_of_a_token_is_refused(token: JoinToken, cut: int) -> None:
    with pytest.raises(MalformedJoinToken):
        JoinToken.parse(token.format()[:cut])


@given(token=tokens)
def test_token_does_not_show_its_secret(token: JoinToken) -> None:
    secret = token.format().rsplit("-", 1)[1]
    assume(token.secret.reveal().hex() != token.root_digest)
    assert secret not in repr(token) + str(token) + f"{token}"
    assert token.secret.reveal().hex() not in repr(token)


@given(token=tokens, other=tokens)
def test_stored_digest_matches_one_secret(token: JoinToken, other: JoinToken) -> None:
    assert token.matches(token.secret_digest())
    assert other.matches(token.secret_digest()) == (other.secret == token.secret)
    assert not token.matches(token.secret.reveal())
    assert not token.matches(b"")


def test_new_tokens_differ(entropy: SeededEntropy) -> None:
    texts = {JoinToken.new("00" * 32, entropy).format() for _ in range(50)}
    assert len(texts) == 50
