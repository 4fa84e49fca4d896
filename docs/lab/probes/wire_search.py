"""Listens on loopback while a command runs, and searches what passed for values.

    wire_search.py --first-port PORT --until FILE --value FILE ... -- COMMAND ...

Listens until the content of `--until` has passed in clear somewhere, ten seconds at most. Prints
for each port of the lab what passed and whether a value stood in it, never a value. Exits 0 when
it could listen, whatever it found, and 3 when it may not listen here. Needs CAP_NET_RAW.
"""

import argparse
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])

from docs.lab.layout import Layout  # noqa: E402  # needs the path above

NOT_PERMITTED = 3
_PATIENCE_S = 10.0
_ALL_PROTOCOLS = 0x0003
_IPV4 = 0x0800
_TCP = 6
_ETHERNET, _OUTGOING, _BUFFER = 14, 4, 64 * 1024 * 1024
Flow = tuple[int, int]
"""The port of the lab, and the other side's with its direction in the sign."""


class Listener:
    """Collects what passes on loopback to and from some ports, in each direction by itself."""

    def __init__(self, ports: set[int]) -> None:
        self.flows: dict[Flow, bytearray] = defaultdict(bytearray)
        self._ports = ports
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                frame, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            # Loopback shows each packet twice: on its way out, and on its way in.
            if address[2] != _OUTGOING:
                self._take(frame)

    def _take(self, frame: bytes) -> None:
        packet = frame[_ETHERNET:]
        (kind,) = struct.unpack_from("!H", frame, 12)
        if kind != _IPV4 or packet[9] != _TCP:
            return
        length = struct.unpack_from("!H", packet, 2)[0]
        segment = packet[(packet[0] & 0x0F) * 4 : length or None]
        source, target = struct.unpack_from("!HH", segment)
        payload = segment[(segment[12] >> 4) * 4 :]
        if target in self._ports:
            self.flows[target, source] += payload
        elif source in self._ports:
            self.flows[source, -target] += payload

    def passed(self, port: int) -> list[bytes]:
        """Return the streams of a port, as far as they went by."""
        return [bytes(data) for (own, _), data in list(self.flows.items()) if own == port]


def main() -> int:
    """Listen, run, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-port", type=int, required=True)
    parser.add_argument("--until", type=Path, required=True)
    parser.add_argument("--value", type=Path, action="append", required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    ports = Layout(Path(), Path(), Path(), arguments.first_port).ports
    try:
        listener = Listener(set(ports))
    except PermissionError as error:
        sys.stdout.write(f"cannot listen here: {error}\n")
        return NOT_PERMITTED
    done = subprocess.run(arguments.command, check=False)
    awaited = arguments.until.read_bytes().strip()
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if any(awaited in stream for port in ports for stream in listener.passed(port)):
            break
        time.sleep(0.05)
    listener.stop()
    needles = {file.name: file.read_bytes().strip() for file in arguments.value}
    report(listener, ports, needles)
    return done.returncode


def report(listener: Listener, ports: dict[int, str], needles: dict[str, bytes]) -> None:
    """Print a line a port."""
    sys.stdout.write(f"{'PORT':<7}{'WHAT':<24}{'BYTES':>9}  IN CLEAR\n")
    for port, what in sorted(ports.items()):
        streams = listener.passed(port)
        if not streams:
            continue
        found = [name for name, needle in needles.items() if any(needle in one for one in streams)]
        size = sum(len(stream) for stream in streams)
        sys.stdout.write(f"{port:<7}{what:<24}{size:>9}  {', '.join(found) or 'nothing'}\n")


if __name__ == "__main__":
    sys.exit(main())
