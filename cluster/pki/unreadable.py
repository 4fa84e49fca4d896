"""What `cryptography` raises for a certificate, a key or a request that it cannot read.

Owns the list alone: much of it is no ValueError, so whoever reads what a stranger sent catches all
of `UNREADABLE`, and says nothing of the content. A request of an unknown version, a key on an
unknown curve, an extension that stands twice and a name of an unknown form each have a class of
their own. Source: the documentation of cryptography.x509; tests/fuzz.
"""

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

UNREADABLE: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
