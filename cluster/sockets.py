"""Binding the sockets a manager serves on, early, so that a port in use is told before any secret
is asked for."""

import os
import socket
from pathlib import Path

from cluster.config import Address
from cluster.protocol.errors import Unavailable


def bind_tcp(address: Address) -> socket.socket:
    """Return a bound socket that does not listen yet. Raises Unavailable, naming the port."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        reason = os.strerror(error.errno or 0).lower()
        raise Unavailable(f"{address} cannot be used: {reason}; free it or set another") from None
    return bound


def require_free(address: Address) -> None:
    """Raise Unavailable, naming the port, if something listens there.

    For a port that a child will bind: its failure would be told late, in a log.
    """
    bind_tcp(address).close()


def bind_admin(path: Path) -> socket.socket:
    """Return a bound unix socket of mode 0600; its directory is of mode 0700 already."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    path.chmod(0o600)
    return bound
