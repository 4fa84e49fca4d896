"""A way between an agent and its manager on loopback that can be cut: what is under way is lost in
silence, as behind a cable that was pulled, and nothing new comes through."""

import contextlib
import select
import socket
import threading
from typing import Final, Self

_POLL_S: Final = 0.05
_SIZE: Final = 65_536


class Relay:
    """Passes connections on to one address, `127.0.0.1:port`, until it is cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._passing = threading.Event()
        self._passing.set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Let nothing through from now on; nobody is told."""
        self._passing.clear()

    def heal(self) -> None:
        """Let through what is sent from now on."""
        self._passing.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        peers: dict[socket.socket, socket.socket] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            while not self._ended.is_set():
                readable, _, _ = select.select([self._listener, *peers], [], [], _POLL_S)
                if not self._passing.is_set():
                    self._ended.wait(_POLL_S)
                    continue
                for one in readable:
                    if one is self._listener:
                        self._accept(peers, stack)
                    elif one in peers:
                        self._pass_on(one, peers)

    def _accept(
        self, peers: dict[socket.socket, socket.socket], stack: contextlib.ExitStack
    ) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(self._target)
        for one, other in ((near, far), (far, near)):
            stack.enter_context(one)
            peers[one] = other

    def _pass_on(self, one: socket.socket, peers: dict[socket.socket, socket.socket]) -> None:
        try:
            chunk = one.recv(_SIZE)
            if chunk:
                peers[one].sendall(chunk)
                return
        except OSError:
            pass
        for end in (peers.pop(one), one):
            peers.pop(end, None)
            end.close()
