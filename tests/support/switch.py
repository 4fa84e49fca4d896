"""A switch in user space: moves packets between the hosts of `netns`, and loses, delays or drops
them as it is told.

One process, standard library only. Argument: `ADDRESS=FD ...`, a TUN device per host. Standard
input takes one JSON object a line: `{"SOURCE>TARGET": [loss, delay_ms, jitter_ms], ...}` replaces
all rules; loss 1 is a cut. A random draw decides a loss, so that the seed of a run decides how much
is lost and not which packet.
"""

import heapq
import itertools
import json
import os
import random
import selectors
import sys
import time

BUFFER = 65_536
READS = 64
"""Packets taken from one host before another one's turn."""

Rule = tuple[float, float, float]


class Switch:
    """The hosts, the rules between them, and the packets under way."""

    def __init__(self, hosts: dict[bytes, int]) -> None:
        self._hosts = hosts
        self._rules: dict[tuple[bytes, bytes], Rule] = {}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._number = itertools.count()
        self._random = random.Random(1)
        self._orders = b""

    def run(self) -> None:
        """Move packets until standard input ends."""
        selector = selectors.DefaultSelector()
        selector.register(0, selectors.EVENT_READ)
        for fd in self._hosts.values():
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(self._wait_s()):
                if key.fd == 0:
                    if not self._take_orders():
                        return
                else:
                    self._take(key.fd)
            self._deliver_due()

    def _wait_s(self) -> float | None:
        return max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None

    def _take_orders(self) -> bool:
        data = os.read(0, BUFFER)
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._rules = {_pair(name): tuple(rule) for name, rule in told.items()}
        return bool(data)

    def _take(self, fd: int) -> None:
        for _ in range(READS):
            try:
                packet = os.read(fd, BUFFER)
            except BlockingIOError:
                return
            target = self._hosts.get(packet[16:20])
            if packet[0] >> 4 == 4 and target is not None:
                self._pass(packet, target)

    def _pass(self, packet: bytes, target: int) -> None:
        rule = self._rules.get((packet[12:16], packet[16:20]))
        if rule is None:
            _write(target, packet)
            return
        loss, delay_ms, jitter_ms = rule
        if self._random.random() < loss:
            return
        at = time.monotonic() + (delay_ms + self._random.random() * jitter_ms) / 1000
        heapq.heappush(self._under_way, (at, next(self._number), target, packet))

    def _deliver_due(self) -> None:
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._under_way)
            _write(target, packet)


def _write(fd: int, packet: bytes) -> None:
    try:
        os.write(fd, packet)
    except OSError:
        return  # a full queue or a host that is down loses packets, as in life


def _address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def _pair(name: str) -> tuple[bytes, bytes]:
    source, _, target = name.partition(">")
    return _address(source), _address(target)


if __name__ == "__main__":
    Switch({_address(a): int(fd) for a, fd in (word.split("=") for word in sys.argv[1:])}).run()
