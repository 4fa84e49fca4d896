"""Values, tokens and keys on their way between files, standard input, a terminal and a request.

Owns reading them whole and binary safe, and writing the ones that are shown once: to a new file of
mode 0600, durable before anything depends on it. They travel as `SecretBytes`, never in argv.
"""

import json
import os
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cluster.protocol.errors import AlreadyExists, InvalidRequest, PayloadTooLarge
from cluster.protocol.secret_bytes import SecretBytes

if TYPE_CHECKING:
    from cluster.pki.received_leaf import ReceivedLeaf

VALUE_LIMIT: Final = 511_999
"""Bytes of a secret version; the manager holds the same limit."""
_CREDENTIAL_LIMIT: Final = 4096


def read_value(source: str | None) -> SecretBytes:
    """Return a secret's value from a file, or from standard input where `source` is None or `-`.

    Raises PayloadTooLarge and InvalidRequest; neither names what was given: it may be the value.
    """
    content = _read(source, VALUE_LIMIT, "a value")
    if len(content) > VALUE_LIMIT:
        raise PayloadTooLarge
    if not content:
        raise InvalidRequest("the value is empty; a value takes 1 to 511,999 bytes")
    return content


def read_credential(source: str | None, what: str) -> SecretBytes:
    """Return a token or an unlock key, white space around it removed."""
    content = _read(source, _CREDENTIAL_LIMIT, what)
    stripped = SecretBytes(content.reveal().strip())
    content.wipe()
    if not stripped or len(stripped) > _CREDENTIAL_LIMIT:
        raise InvalidRequest(f"there is no {what} in what was given")
    return stripped


def read_unlock_key(source: str | None) -> SecretBytes:
    """Return the unlock key from a file, standard input, or a prompt that does not echo."""
    if source is None and sys.stdin.isatty():
        import getpass

        return SecretBytes(getpass.getpass("Unlock key: ").strip().encode())
    return read_credential(source, "unlock key")


def json_body(fields: Mapping[str, object], **secrets: SecretBytes) -> SecretBytes:
    """Return a JSON body that carries secrets among its fields."""
    try:
        revealed = {name: value.reveal().decode("ascii") for name, value in secrets.items()}
    except UnicodeDecodeError:
        raise InvalidRequest(f"this is no {' or '.join(secrets).replace('_', ' ')}") from None
    return SecretBytes(json.dumps({**fields, **revealed}).encode())


def request_text(key_pem: SecretBytes) -> str:
    """Return a certificate request for the key: DER in base64."""
    from cluster.pki.csr import key_from_pem, make_csr

    return b64encode(make_csr(key_from_pem(key_pem.reveal()))).decode()


def check_chain(
    chain: Sequence[bytes], key_pem: SecretBytes, control: Sequence[bytes]
) -> "ReceivedLeaf":
    """Return the leaf of a chain (DER) that is for the key and from this cluster."""
    from cluster.pki.received_leaf import check_received

    return check_received(chain, key_pem.reveal(), control)


def pinned_root(token: SecretBytes) -> str:
    """Return the digest of the root that a join token pins; raise MalformedJoinToken."""
    from cluster.pki.join_token import JoinToken

    return JoinToken.parse(token.reveal().decode("utf-8", "replace")).root_digest


def with_secret(content: Mapping[str, object], name: str, secret: SecretBytes) -> dict[str, object]:
    """Return an answer with the credential that was taken out of it, for JSON on the terminal."""
    return {**content, name: secret.reveal().decode()}


def show_once(secret: SecretBytes) -> None:
    """Print a credential on standard output, where its owner asked for it."""
    sys.stdout.write(secret.reveal().decode() + "\n")


class ReservedFile:
    """A new file of mode 0600, claimed before the secret that goes into it exists.

    A place that cannot be written shows before anything is asked of a manager. Without `write` the
    file is gone again after the block.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._written = False
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            # O_EXCL: an existing file may hold the only copy of another key.
            self._descriptor = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except FileExistsError:
            raise AlreadyExists(f"{self._path} exists already; move it away first") from None
        return self

    def write(self, secret: SecretBytes) -> None:
        """Write the credential and a line end; it is durable on return."""
        content = secret.reveal() + b"\n"
        while content:
            content = content[os.write(self._descriptor, content) :]
        os.fsync(self._descriptor)
        flush_directory(self._path.parent)
        self._written = True

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)
        if not self._written:
            self._path.unlink(missing_ok=True)


def flush_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(source: str | None, limit: int, what: str) -> SecretBytes:
    """Return up to `limit` + 1 bytes."""
    if source in {None, "-"}:
        if sys.stdin.isatty():
            raise InvalidRequest(
                f"name a file with {what}, or pipe it in: a terminal would show it"
            )
        return SecretBytes(sys.stdin.buffer.read(limit + 1))
    try:
        with Path(str(source)).open("rb") as file:
            return SecretBytes(file.read(limit + 1))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InvalidRequest(
            f"the file named for {what} cannot be read ({(reason or 'not a path').lower()}); "
            f"{what} itself is never an argument"
        ) from None
