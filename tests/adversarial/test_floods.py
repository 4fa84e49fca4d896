"""Floods of connections, handshakes and requests: agents and operators go on, and it is counted.

The manager has a thousand descriptors here, as a process has where nobody raised the limit: more
connections are tried than that. During each flood a rotation reaches the node and an operator is
answered; afterwards nothing of it is left.
"""

import contextlib
import json
import resource
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.attacker import bare, join_node, open_files, tls_connection
from tests.support.running import ManagerProcess, RunningCluster, running_cluster, wait_until

pytestmark = [pytest.mark.threat("T-46"), pytest.mark.slow]

DESCRIPTORS: Final = 1024
SILENT: Final = 2_000
SLOW: Final = 600
HANDSHAKES: Final = 1_500
JOINS: Final = 600
ADDRESSES: Final = 24


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """Let this process open what it floods with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(agents=1) as cluster:
        limit = (DESCRIPTORS, DESCRIPTORS)
        resource.prlimit(cluster.managers[0].pid, resource.RLIMIT_NOFILE, limit)
        cluster.create_secret("held", b"value-0")
        cluster.create_service("red", 20_003, "held")
        yield cluster
        assert "request.failed" not in cluster.managers[0].text()
        assert "link.opened" in cluster.agents[0].text()


def goes_on(cluster: RunningCluster) -> None:
    """Rotate, and see it arrive over the session that was there before."""
    links = cluster.agents[0].text().count("link.opened")
    number = cluster.rotate("held", b"new")
    value = b"value-%d" % number
    cluster.rotate("held", value)
    assert cluster.agents[0].read("red", "held") == value
    assert cluster.call("GET", "/v1/status").status == 200
    assert cluster.agents[0].text().count("link.opened") == links, "the agent lost its session"


def settles(cluster: RunningCluster, before: int) -> None:
    """Wait until the manager holds no more than it did."""
    pid = cluster.managers[0].pid
    wait_until(lambda: open_files(pid) <= before + 10, "the manager closed what the flood opened")


def refused(manager: ManagerProcess) -> int:
    """Return how many connections the manager says that it has closed at the door."""
    events = [
        json.loads(line) for line in manager.text().splitlines() if "connections.refused" in line
    ]
    return sum(int(event["count"]) for event in events)


def counted(cluster: RunningCluster, listener: str) -> Counter[str]:
    """Return how many a listener says in its metrics that it turned away, by reason."""
    text = cluster.call("GET", "/metrics").body["value"].decode()
    return Counter(
        {
            sample.labels["reason"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "strongroom_refused_total" and sample.labels["listener"] == listener
        }
    )


def connections(port: int, count: int, addresses: int) -> Iterator[socket.socket]:
    """Begin connections from several addresses of loopback, without waiting for them."""
    for number in range(count):
        one = socket.socket()
        one.setblocking(False)
        one.bind((f"127.0.3.{number % addresses + 1}", 0))
        with contextlib.suppress(BlockingIOError):
            one.connect(("127.0.0.1", port))
        yield one


@pytest.mark.parametrize(("listener", "addresses"), [("api", 1), ("join", ADDRESSES)])
def test_silent_connections(cluster: RunningCluster, listener: str, addresses: int) -> None:
    """More than there are descriptors, from one address and from many; none says a word."""
    manager = cluster.managers[0]
    port = manager.api_port if listener == "api" else manager.join_port
    before, told = open_files(manager.pid), refused(manager)
    counts = counted(cluster, listener)
    with contextlib.ExitStack() as stack:
        for one in connections(port, SILENT, addresses):
            stack.enter_context(one)
        goes_on(cluster)
        assert open_files(manager.pid) < DESCRIPTORS - 200
        # Nothing closes before the flood was at the doors, however slowly it arrives there.
        wait_until(
            lambda: (counted(cluster, listener) - counts)["crowd"] > SILENT // 4,
            "the doors turned the crowd away",
        )
    settles(cluster, before)
    wait_until(lambda: refused(manager) > told, "what was refused is told")
    more = counted(cluster, listener) - counts
    # Of those, the doors took some in at a time; each that went away by itself is a handshake.
    assert more["crowd"] + more["handshake"] <= SILENT + 10, more


def test_slow_requests(cluster: RunningCluster) -> None:
    """Finished handshakes from many addresses, each with a request that never ends."""
    manager = cluster.managers[0]
    before, counts = open_files(manager.pid), counted(cluster, "join")
    context = bare(cluster).context()
    with contextlib.ExitStack() as stack:
        held = 0
        for number in range(SLOW):
            with contextlib.suppress(OSError):
                source = f"127.0.4.{number % ADDRESSES + 1}"
                one = stack.enter_context(tls_connection(manager.join, context, source))
                one.sendall(b"POST /v1/join HTTP/1.1\r\nhost: x\r\nx-slow: ")
                held += 1
            if number % 300 == 0:
                goes_on(cluster)
        assert held > 100, "the flood was none"
        goes_on(cluster)
        assert open_files(manager.pid) < DESCRIPTORS - 200
    settles(cluster, before)
    more = counted(cluster, "join") - counts
    assert more["connections"] + more["slow"] > 50, more


def flooding(work: Callable[[int], None], count: int, threads: int = 4) -> Iterator[None]:
    """Do `work` again and again beside what the block does."""
    ended = threading.Event()

    def run(first: int) -> None:
        for number in range(first, count, threads):
            if ended.is_set():
                return
            with contextlib.suppress(OSError):
                work(number)

    running = [threading.Thread(target=run, args=(first,)) for first in range(threads)]
    for one in running:
        one.start()
    try:
        yield
    finally:
        ended.set()
        for one in running:
            one.join()


def test_handshakes_without_a_certificate(cluster: RunningCluster) -> None:
    """Whole handshakes on the port that demands a certificate, one after another."""
    manager = cluster.managers[0]
    before, counts = open_files(manager.pid), counted(cluster, "api")
    context = bare(cluster).context()
    done: list[int] = []

    def shake(number: int) -> None:
        with tls_connection(manager.api, context, f"127.0.5.{number % ADDRESSES + 1}"):
            done.append(number)

    with contextlib.contextmanager(flooding)(shake, HANDSHAKES):
        wait_until(lambda: len(done) > 20, "handshakes are going on")
        goes_on(cluster)
    settles(cluster, before)
    wait_until(
        lambda: (counted(cluster, "api") - counts)["handshake"] >= len(done) // 2,
        "handshakes that came to nothing are counted",
    )


def test_joins_with_guessed_tokens(cluster: RunningCluster) -> None:
    """They are refused before any work once an address asks too often, and leave a few entries."""
    manager = cluster.managers[0]
    before, counts = open_files(manager.pid), counted(cluster, "join")
    context = bare(cluster).context()
    body = json.dumps({"token": "SRTKN-1-x", "csr": "AAAA", "name": "n"}).encode()
    head = b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    answers: list[bytes] = []

    def ask(number: int) -> None:
        source = f"127.0.6.{number % 4 + 1}"
        with tls_connection(manager.join, context, source) as connection:
            connection.sendall(head + body)
            answers.append(connection.recv(4096)[9:12])

    with contextlib.contextmanager(flooding)(ask, JOINS):
        wait_until(lambda: b"429" in answers, "an address has asked too often")
        goes_on(cluster)
    assert {*answers} <= {b"400", b"403", b"429", b""}
    settles(cluster, before)
    assert cluster.node("n1")["state"] == "ready"
    assert (counted(cluster, "join") - counts)["rate"] >= answers.count(b"429")


def test_one_agents_connections_leave_room_for_others(cluster: RunningCluster) -> None:
    """A node with a valid certificate opens what it can; operators and its neighbour go on."""
    manager = cluster.managers[0]
    thief, _ = join_node(cluster, "thief")
    before, counts = open_files(manager.pid), counted(cluster, "api")
    context: ssl.SSLContext = thief.context()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            with contextlib.suppress(OSError):
                stack.enter_context(tls_connection(manager.api, context))
        goes_on(cluster)
        assert open_files(manager.pid) < before + 200
    settles(cluster, before)
    assert (counted(cluster, "api") - counts)["connections"] > 100
