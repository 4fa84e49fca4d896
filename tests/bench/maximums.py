"""The most of one thing that a cluster takes: the largest value in a file, the most versions of one
secret, the most streams of events of one caller while all callers write.

Each is asked at its documented limit, and the next one is refused. The numbers of secrets, services
and agents are `make scale`'s.
"""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cluster.control.secrets import MAX_VALUE_BYTES
from tests.bench.load import Measured, busyness, generating
from tests.bench.requests import each
from tests.bench.rows import Row
from tests.bench.stage import SECRET, Stage, creation
from tests.support.running import wait_until

ACTIVE: Final = 40
"""Versions beside the primary that are issued."""
KEPT: Final = 50
"""Retired ones that keep their value."""
MANY: Final = "many-versions"
FOLLOWERS: Final = 4
CALLERS: Final = 64
PATIENCE_S: Final = 120.0


def maximums(stage: Stage) -> list[Row]:
    """Measure each."""
    return [largest(stage), *versions(stage), *followed(stage)]


def largest(stage: Stage) -> Row:
    """Measure the largest value, from the request to the service's file."""
    value = os.urandom(MAX_VALUE_BYTES)
    refused = stage.cluster.call("POST", f"/v1/secrets/{SECRET}/versions", value + b"x")
    assert refused.status == 413, refused.status
    started = time.perf_counter()
    stage.cluster.ok("POST", f"/v1/secrets/{SECRET}/versions", value)
    wait_until(lambda: stage.in_file() == value, "the largest value is in the file", PATIENCE_S)
    took_ms = (time.perf_counter() - started) * 1_000
    return Row.of("largest value in a file", "bytes", [len(value)], note=f"in {took_ms:.0f} ms")


def versions(stage: Stage) -> list[Row]:
    """Measure a secret with as many versions as it may have, all with their values."""
    ok = stage.cluster.ok
    path = f"/v1/secrets/{MANY}"
    ok("POST", f"/v1/secrets?name={MANY}&keep={KEPT}", os.urandom(1_024))
    for _ in range(KEPT):
        ok("POST", f"{path}/versions", os.urandom(1_024))
    for _ in range(ACTIVE):
        ok("POST", f"{path}/versions?overlap_s=3600", os.urandom(1_024))
    refused = stage.cluster.call("POST", f"{path}/versions?overlap_s=3600", b"one more")
    assert refused.status >= 400, refused.status
    shown = ok("GET", path)["versions"]
    kept = [one["number"] for one in shown if one["value"] == "kept"]
    started = time.perf_counter()
    ok("POST", f"{path}/rollback", {"version": min(kept)})
    took_ms = (time.perf_counter() - started) * 1_000
    return [
        Row.of("versions of one secret with their values", "count", [len(kept)]),
        Row.of("roll back to the oldest of them", "ms", [took_ms]),
    ]


# --- events --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Follower:
    """One stream of events, read by a thread of its own."""

    connection: http.client.HTTPSConnection
    seen: int = 0
    """Events; what only says up to which revision all were sent is none."""
    last_s: float = 0.0
    """When the last of them came."""

    def follow(self) -> None:
        """Read until the connection is shut."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.connection.request("GET", "/v1/events?follow=true")
            answer = self.connection.getresponse()
            assert answer.status == 200, answer.status
            while line := answer.readline():
                if "type" in json.loads(line):
                    self.last_s = time.perf_counter()
                    self.seen += 1

    def leave(self) -> None:
        """Shut the connection."""
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def following(stage: Stage) -> Iterator[list[Follower]]:
    """Give followers of one manager, as many as one caller may have."""
    host, _, port = stage.cluster.leader().api.rpartition(":")
    context = stage.operator.context()
    followers = [
        Follower(http.client.HTTPSConnection(host, int(port), context=context))
        for _ in range(FOLLOWERS)
    ]
    threads = [threading.Thread(target=one.follow) for one in followers]
    for thread in threads:
        thread.start()
    try:
        yield followers
    finally:
        for follower in followers:
            follower.leave()
        for thread in threads:
            thread.join()


def followed(stage: Stage) -> list[Row]:
    """Measure what followers of one manager are told while callers create on all of them."""
    count = stage.size.creates
    with (
        generating(stage.target(), creation("followed"), CALLERS, processes=2) as generator,
        following(stage) as followers,
    ):
        wait_until(lambda: _follow(stage, followers), "they follow", PATIENCE_S)
        done, late_ms, told = [], [], []
        used_s = stage.used_s()
        for _ in range(stage.size.rounds):
            began_s, before = time.perf_counter(), [one.seen for one in followers]
            done.append(generator.round(count))
            ended_s = time.perf_counter()
            wait_until(partial(_told, followers, before, count), "every event is told", PATIENCE_S)
            last_s = max(one.last_s for one in followers)
            late_ms.append(max(0.0, last_s - ended_s) * 1_000)
            told.append(FOLLOWERS * count / (last_s - began_s))
        cost = each(stage.used_s() - used_s, count * stage.size.rounds)
    return _rows(done, told, late_ms, cost)


def _follow(stage: Stage, followers: Sequence[Follower]) -> bool:
    """Return whether all are told what happens; make something happen."""
    stage.cluster.ok("PATCH", f"/v1/secrets/{SECRET}/labels", {"add": {"at": os.urandom(4).hex()}})
    time.sleep(0.5)  # the events of this change are none of a round's
    return all(one.seen for one in followers)


def _told(followers: Sequence[Follower], before: Sequence[int], count: int) -> bool:
    return all(one.seen >= then + count for one, then in zip(followers, before, strict=True))


def _rows(
    done: Sequence[Measured], told: Sequence[float], late_ms: Sequence[float], cost: str
) -> list[Row]:
    note = f"{FOLLOWERS} followers of one manager, {CALLERS} callers create; {cost} with its create"
    return [
        Row.of("events told", "1/s", told, note=f"{note}; {busyness(done)}"),
        Row.of("events told, behind the last create", "ms", late_ms),
    ]
