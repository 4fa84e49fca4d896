"""Calling a hook over HTTPS, with a certificate of the manager's own for it.

A description names the address and three files. The server must show a certificate of exactly the
authority it names, for its host. Status 2xx is yes; the body of the answer is not looked at.
"""

import asyncio
import ssl
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cluster.hook.contract import HookCall
from cluster.hook.ownership import check_owned
from cluster.pki.tls import client_context
from cluster.protocol.errors import ClusterError, HookFailed, OutcomeUnknown
from cluster.protocol.https_client import request

_FIELDS: Final = frozenset({"url", "ca_file", "certificate_file", "key_file"})
_HTTPS_PORT: Final = 443
_YES: Final = range(200, 300)
_FILE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a hook is reached, and how both ends prove themselves."""

    address: str
    """`HOST:PORT`."""
    path: str
    context: ssl.SSLContext


def read_endpoint(description: Path) -> Endpoint:
    """Return the endpoint that a description names. Raises HookFailed, naming the field."""
    fields = _fields(description)
    try:
        url = urlsplit(fields["url"])
        port = url.port or _HTTPS_PORT
    except ValueError:
        raise HookFailed("url of the hook has no valid host or port") from None
    if url.scheme != "https" or not url.hostname or url.username or url.password or url.fragment:
        raise HookFailed("url of the hook reads https://HOST[:PORT]/PATH, without credentials")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return Endpoint(f"{host}:{port}", path, _context(description.parent, fields))


async def post(endpoint: Endpoint, call: HookCall, timeout_s: float) -> None:
    """Send a call, and return if the answer is yes. Raises HookFailed."""
    loop = asyncio.get_running_loop()
    headers = {
        "content-type": "application/json",
        "idempotency-key": call.idempotency_key,
    }
    try:
        answer = await asyncio.to_thread(
            request,
            [endpoint.address],
            "POST",
            endpoint.path,
            body=call.encode(),
            headers=headers,
            context=endpoint.context,
            timeout_s=timeout_s,
            monotonic_s=loop.time,
        )
    except OutcomeUnknown:
        raise HookFailed(f"the hook did not answer within {timeout_s:g} s") from None
    except ClusterError as error:
        raise HookFailed(f"the hook was not reached: {_reason(error)}") from None
    except TimeoutError:
        raise HookFailed(f"the hook did not answer within {timeout_s:g} s") from None
    if answer.status not in _YES:
        raise HookFailed(f"the hook answered with status {answer.status}")


def _fields(description: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(_read(description).decode())
    except (ValueError, RecursionError):  # tomllib raises more than its own error
        raise HookFailed(f"{description.name} is not TOML") from None
    missing, unknown = sorted(_FIELDS - content.keys()), sorted(content.keys() - _FIELDS)
    if missing or unknown:
        wrong = f"lacks {missing[0]}" if missing else "has a field that hooks do not know"
        raise HookFailed(f"{description.name} {wrong}; see docs/how-to/write-a-hook.md")
    if not all(isinstance(value, str) for value in content.values()):
        raise HookFailed(f"every field of {description.name} takes a string")
    return content


def _context(directory: Path, fields: dict[str, str]) -> ssl.SSLContext:
    """Return the TLS context; a relative file name is one beside the description."""
    authorities = _authorities(_read(directory / fields["ca_file"]))
    chain = _read(directory / fields["certificate_file"])
    key = _read(directory / fields["key_file"], private=True)
    if b"ENCRYPTED" in key:
        # OpenSSL would ask for its passphrase on the terminal, and wait.
        raise HookFailed("the hook's key_file is encrypted; a manager has no passphrase for it")
    try:
        context = client_context(authorities, chain, key)
    except (ClusterError, ssl.SSLError):
        raise HookFailed(
            "the hook's ca_file, certificate_file and key_file do not fit together"
        ) from None
    context.check_hostname = True
    return context


def _authorities(pem: bytes) -> list[bytes]:
    end = "-----END CERTIFICATE-----"
    blocks = [f"{block}{end}" for block in pem.decode("ascii", "replace").split(end)[:-1]]
    try:
        return [ssl.PEM_cert_to_DER_cert(block.strip()) for block in blocks]
    except ValueError:
        raise HookFailed("the hook's ca_file holds no PEM certificates") from None


def _read(path: Path, *, private: bool = False) -> bytes:
    found = check_owned(path, path.name)
    if private and found.st_mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IXGRP | stat.S_IXOTH):
        raise HookFailed(f"{path.name} is readable by others; run `chmod 0600` on it")
    if found.st_size > _FILE_BYTES:
        raise HookFailed(f"{path.name} is too large")
    try:
        return path.read_bytes()
    except OSError as error:
        raise HookFailed(f"{path.name} cannot be read: {error.strerror}") from None


def _reason(error: ClusterError) -> str:
    return error.message.partition(";")[0]
