"""Join tokens: `SRTKN-1-<root CA digest>-<token id>-<secret>`.

Owns the text form and the comparison with a stored digest; who a token admits, how often and until
when stands in its record. The digest of the root lets a newcomer check the cluster before it sends
the secret. The package never stores the secret: only its SHA-256, which is enough for 32 random
bytes. Source: DESIGN 5.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from cluster.protocol.errors import MalformedJoinToken
from cluster.protocol.ids import TokenId, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import Entropy

PREFIX = "SRTKN-1-"
SECRET_SIZE = 32
DIGEST_SIZE = 32

_TOKEN = re.compile(r"SRTKN-1-([a-z2-7]{52})-([a-z2-7]{26})-([a-z2-7]{52})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A parsed join token."""

    root_digest: str
    """Hex SHA-256 of the root certificate's DER."""
    token_id: TokenId
    secret: SecretBytes = field(repr=False, hash=False)
    """32 random bytes."""

    @classmethod
    def new(cls, root_digest: str, entropy: Entropy) -> "JoinToken":
        """Return a fresh token for the cluster with this root."""
        token_id = TokenId(format_id(entropy.token(16)))
        return cls(root_digest, token_id, SecretBytes(entropy.token(SECRET_SIZE)))

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Return the token in `text`, white space around it allowed, or raise MalformedJoinToken.

        There is one spelling per token: unused bits of the base32 text must be zero.
        """
        found = _TOKEN.fullmatch(text.strip())
        if found is None:
            raise MalformedJoinToken
        digest, token_id, secret = found.groups()
        token = cls(_decode(digest).hex(), TokenId(token_id), SecretBytes(_decode(secret)))
        if token.format() != found.group():
            raise MalformedJoinToken
        return token

    def format(self) -> str:
        """Return the text form, which carries the secret: for a terminal or a file, never a log."""
        digest = _encode(bytes.fromhex(self.root_digest))
        return f"{PREFIX}{digest}-{self.token_id}-{_encode(self.secret.reveal())}"

    def secret_digest(self) -> bytes:
        """Return the SHA-256 of the secret: what the cluster stores."""
        return hashlib.sha256(self.secret.reveal()).digest()

    def matches(self, stored_digest: bytes) -> bool:
        """Return whether the secret is the one behind `stored_digest`, in constant time."""
        return hmac.compare_digest(self.secret_digest(), stored_digest)


def _encode(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()


def _decode(text: str) -> bytes:
    """Return the 32 bytes behind 52 characters of lower-case base32."""
    return base64.b32decode(text.upper() + "====")
