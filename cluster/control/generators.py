"""Values that the manager makes, so that no person ever sees them.

A password has 6 bits a character, a hex string 4; keys come from `pki.generated_keys`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from cluster.pki.generated_keys import ed25519_key, rsa_key
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import Entropy

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""64 characters that need no quoting in a shell, a URL or a connection string: a byte's low six
bits choose without a bias."""


class Generator(StrEnum):
    """What a value is made as."""

    PASSWORD = "password"  # noqa: S105  # a generator's name
    HEX = "hex"
    RSA = "rsa"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class _Range:
    default: int
    low: int
    high: int
    unit: str


_LENGTHS: Final = {
    Generator.PASSWORD: _Range(32, 16, 4096, "characters"),
    Generator.HEX: _Range(64, 32, 4096, "digits"),
    Generator.RSA: _Range(3072, 2048, 4096, "bits"),
}
_ODD: Final = "a hex string takes an even number of digits"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A generator with its length; made by `recipe`."""

    generator: Generator
    length: int

    def make(self, entropy: Entropy) -> SecretBytes:
        """Return a new value."""
        match self.generator:
            case Generator.PASSWORD:
                drawn = entropy.token(self.length)
                return SecretBytes(bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in drawn))
            case Generator.HEX:
                return SecretBytes(entropy.token(self.length // 2).hex().encode())
            case Generator.RSA:
                return rsa_key(self.length)
            case Generator.ED25519:
                return ed25519_key()
        assert_never(self.generator)


def recipe(generator: str, length: int = 0) -> Recipe:
    """Return what makes a value; a length of 0 is the generator's own. Raises InvalidRequest."""
    try:
        kind = Generator(generator)
    except ValueError:
        known = ", ".join(each.value for each in Generator)
        raise InvalidRequest(f"there is no such generator; there are: {known}") from None
    limits = _LENGTHS.get(kind)
    if limits is None:
        if length:
            raise InvalidRequest(f"{kind.value} keys have one length; leave it out")
        return Recipe(kind, 0)
    chosen = length or limits.default
    if not limits.low <= chosen <= limits.high:
        raise InvalidRequest(
            f"{kind.value} takes a length of {limits.low} to {limits.high} {limits.unit}"
        )
    if kind is Generator.HEX and chosen % 2:
        raise InvalidRequest(_ODD)
    return Recipe(kind, chosen)
