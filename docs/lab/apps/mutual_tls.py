"""Two ends that know each other by the certificates in their files, and nothing else.

    mutual_tls.py listen PORT WHO     answers those who are WHO
    mutual_tls.py call PORT WHO [N]   asks WHO ten times a second, each time anew; N: only so often

WHO is a SPIFFE id. Each line tells the peer, the serials of both certificates, and what came of it.
"""

import os
import signal
import socket
import ssl
import sys
import time
from typing import Any

FILES = "/run/secrets"
HOST = "127.0.0.1"
PERIOD_S = 0.1
TIMEOUT_S = 10.0


class Certificate:
    """The newest set of files: loaded again once the whole set was swapped."""

    def __init__(self, purpose: ssl.Purpose) -> None:
        self._purpose = purpose
        self._loaded = ""
        self._context = ssl.create_default_context(purpose)

    def context(self) -> ssl.SSLContext:
        """Return a context for the next connection."""
        # All three from one set: `..data` may be swapped while they are read.
        current = os.path.realpath(f"{FILES}/..data")
        if current != self._loaded:
            made = ssl.create_default_context(self._purpose, cafile=f"{current}/ca.crt")
            made.minimum_version = ssl.TLSVersion.TLSv1_3
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_cert_chain(f"{current}/tls.crt", f"{current}/tls.key")
            self._context, self._loaded = made, current
        return self._context


def identity(peer: dict[str, Any]) -> str:
    """Return the SPIFFE id of a checked certificate."""
    return str(dict(peer["subjectAltName"])["URI"])


def say(peer: dict[str, Any], outcome: str) -> None:
    """Print a line: who, which certificate, what came of it."""
    tell(f"{identity(peer)} {peer['serialNumber'][-8:]} {outcome}")


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def listen(port: int, who: str) -> None:
    """Answer until ended."""
    own = Certificate(ssl.Purpose.CLIENT_AUTH)
    with socket.create_server((HOST, port)) as listener:
        tell(f"listens for {who}")
        while True:
            plain, _ = listener.accept()
            plain.settimeout(TIMEOUT_S)
            try:
                with own.context().wrap_socket(plain, server_side=True) as connection:
                    peer: Any = connection.getpeercert()
                    if identity(peer) == who:
                        connection.sendall(connection.recv(5))
                        say(peer, "answered")
                    else:
                        say(peer, "refused")
            except OSError as error:
                tell(f"no connection: {error}")


def call(port: int, who: str, times: int) -> int:
    """Ask, and return how many requests failed."""
    own, failed, asked = Certificate(ssl.Purpose.SERVER_AUTH), 0, 0
    while not times or asked < times:
        asked += 1
        try:
            with socket.create_connection((HOST, port), TIMEOUT_S) as plain:
                failed += not ask(own, plain, who)
        except OSError as error:
            failed += 1
            tell(f"no connection: {error}")
        time.sleep(PERIOD_S)
    return failed


def ask(own: Certificate, plain: socket.socket, who: str) -> bool:
    """Return whether the other end is who it should be, and answered."""
    # The host name is the service's own: a certificate of another does not match it.
    with own.context().wrap_socket(plain, server_hostname=who.rpartition("/")[2]) as connection:
        peer: Any = connection.getpeercert()
        connection.sendall(b"hello")
        answered = identity(peer) == who and connection.recv(5) == b"hello"
        say(peer, "answered" if answered else "did not answer")
        return answered


def main(words: list[str]) -> int:
    """Run one of the two ends."""
    # Blue is told of a swap by this signal; here each connection looks for one anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    match words:
        case ["listen", port, who]:
            listen(int(port), who)
            return 0
        case ["call", port, who, *times]:
            return 1 if call(int(port), who, int(*times)) else 0
        case _:
            sys.exit(f"usage:\n{(__doc__ or '').partition(':')[2]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
