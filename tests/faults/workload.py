"""The mixed workload: chains of rotations and compare-and-sets, creations and removals, labels,
drains, and issues by nodes, from several clients at once, drawn by the seed.

What a value holds names the secret and the write, so that whatever turns up anywhere can be traced.
"""

import math
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.faults.client import Answered, Client, Newest, Unsettled
from tests.faults.cluster import FaultCluster
from tests.faults.history import History, Operation
from tests.support.issuing import IssueCaller
from tests.support.running import Credential, node_id_of

CHAIN_SECRETS: Final = ("s0", "s1", "s2", "s3")
CHURN_SECRETS: Final = ("c0", "c1")
FIXED_SERVICES: Final = ("v0", "v1", "v2")
CHURN_SERVICES: Final = ("w0", "w1")
EVERYWHERE: Final = "g0"
"""A service on every node that is not drained."""
BOTH: Final = "s0"
"""The secret of which that service has the version before as well, while it is active."""
LASTING: Final = "k0"
"""A service on the first agent, which is never drained: its files must never go."""
LEASED: Final = "d0"
"""A service on every node that is not drained, whose file goes with its lease."""
LEASE_S: Final = 30.0
SERVICES: Final = (*FIXED_SERVICES, *CHURN_SERVICES, EVERYWHERE, LASTING, LEASED)
UIDS: Final = {name: 31_000 + number for number, name in enumerate(SERVICES)}
LONGEST: Final = 3000
OVERLAPPING: Final = 0.4
"""The share of rotations that leave the version before active for a while."""
SETTLING_S: Final = 300.0
"""How long all unknown outcomes together may take to settle, at rest."""
READER_S: Final = 30.0
FINISHING_S: Final = 300.0
"""How long a client may take to finish what it does; what it did later would be in no history."""


def key_of(kind: str, name: str) -> str:
    """Return an operation's key."""
    return f"{kind}:{name}"


@dataclass(slots=True)
class Workload:
    """The clients and what they know."""

    cluster: FaultCluster
    seed: int
    clients: int = 6
    history: History = field(default_factory=History)
    newest: Newest = field(default_factory=Newest)
    began: float = field(default_factory=time.monotonic)
    values: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    """Mark of a value -> secret name and, once acknowledged, version."""
    service_names: dict[str, str] = field(default_factory=dict)
    """Service id -> name, for every service that was ever acknowledged."""
    failures: list[str] = field(default_factory=list)
    unsettled: list[Unsettled] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _operator: ssl.SSLContext | None = None
    _nodes: dict[str, tuple[float, ssl.SSLContext]] = field(default_factory=dict)
    _issue_callers: dict[str, IssueCaller] = field(default_factory=dict)

    def client(self, name: str, gives_up: float = 0.1) -> Client:
        """Return a client whose draws follow from the seed and its name."""
        return Client(
            name=name,
            history=self.history,
            newest=self.newest,
            random=random.Random(f"{self.seed}/{name}"),
            context=self._context,
            endpoints=lambda: [one.api for one in self.cluster.managers],
            began=self.began,
            gives_up=gives_up,
            unsettled=self.unsettled,
        )

    def _context(self) -> ssl.SSLContext:
        if self._operator is None:
            assert self.cluster.operator is not None
            self._operator = self.cluster.operator.context()
        return self._operator

    def prepare(self) -> None:
        """Make what the whole run works on."""
        user = Actions(self, self.client("prepare", gives_up=0))
        for secret in CHAIN_SECRETS:
            user.create_secret(secret)
        for service in (*FIXED_SERVICES, EVERYWHERE, LASTING, LEASED):
            user.create_service(service)

    def start(self) -> None:
        """Start the clients."""
        for number in range(self.clients):
            thread = threading.Thread(target=self._run, args=(f"client{number}",), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let the clients finish what they do."""
        self._stop.set()
        for thread in self._threads:
            finish(thread, self.failures)

    def settle(self, quiet_s: float) -> None:
        """Settle what is unknown, with no fault about: it was sent so long ago that no earlier send
        is under way any more."""
        client = self.client("settler", gives_up=0)
        until = time.monotonic() + SETTLING_S
        for left in [one for one in self.unsettled if one.sent_at < client.now() - quiet_s]:
            if time.monotonic() > until:
                self.failures.append("writes cannot be settled although all is at rest")
                break
            client.settle(left)
            self.unsettled.remove(left)

    def leave_unsettled(self) -> None:
        """Put what is unknown into the history as it is: nobody will ask any more."""
        for left in self.unsettled:
            self.history.add(left.operation)
        self.unsettled.clear()

    def quiet_s(self) -> float:
        """Return how long ago the newest write without an outcome was sent."""
        now = time.monotonic() - self.began
        return now - max((left.sent_at for left in self.unsettled), default=-math.inf)

    def read_all(self) -> None:
        """Read every key once more, at rest: what was acknowledged must be there."""
        user = Actions(self, self.client("final", gives_up=0))
        for _ in range(2):
            for secret in (*CHAIN_SECRETS, *CHURN_SECRETS):
                user.read_secret(secret)
            for service in SERVICES:
                user.read_service(service)
            for agent in self.cluster.agents:
                user.read_node(agent.name)

    def learn(self) -> None:
        """Take in the versions that settled writes were given, and those that nodes were issued,
        and the ids of services."""
        for one in self.history.operations:
            if one.action == "create" and one.key.startswith("service:") and one.outcome == "ok":
                self.service_names[one.value] = one.key.removeprefix("service:")
            mark = one.value if one.action == "issue" else one.argument
            if one.outcome == "ok" and one.result is not None and mark in self.values:
                secret, known = self.values[mark]
                if known not in {None, one.result}:
                    self.failures.append(f"{secret}/{known} was issued as version {one.result}")
                self.values[mark] = (secret, one.result)

    def node_context(self, name: str) -> ssl.SSLContext:
        """Return the TLS context of a node's own certificate, read anew every now and then."""
        found = self._nodes.get(name)
        if found is None or time.monotonic() - found[0] > READER_S:
            agent = next(one for one in self.cluster.agents if one.name == name)
            found = (time.monotonic(), Credential.of_node(agent.data_dir).context())
            self._nodes[name] = found
        return found[1]

    def issue_caller(self, name: str) -> IssueCaller:
        """Return the envelope keys that a node asks with."""
        if name not in self._issue_callers:
            agent = next(one for one in self.cluster.agents if one.name == name)
            node_id = node_id_of(Credential.of_node(agent.data_dir))
            self._issue_callers[name] = IssueCaller(node_id)
        return self._issue_callers[name]

    def _run(self, name: str) -> None:
        client = self.client(name)
        user = Actions(self, client)
        try:
            while not self._stop.is_set():
                user.act()
                time.sleep(client.random.uniform(0, 0.06))
        except Exception as error:  # a broken client would make a run that proves nothing
            self.failures.append(f"{name} broke: {type(error).__name__}: {error}")
            raise


def finish(thread: threading.Thread, failures: list[str]) -> None:
    """Wait for a client to finish; it is a failure if it does not."""
    thread.join(FINISHING_S)
    if thread.is_alive():
        failures.append(f"{thread.name} does not finish what it does")


@dataclass(slots=True)
class Actions:
    """What one client does."""

    workload: Workload
    client: Client

    def act(self) -> None:
        """Do one thing, drawn at random."""
        draw = self.client.random
        action, pool = draw.choices(
            [
                (self.rotate, CHAIN_SECRETS),
                (self.read_secret, (*CHAIN_SECRETS, *CHURN_SECRETS)),
                (self.issue, (*FIXED_SERVICES, EVERYWHERE)),
                (self.churn_secret, CHURN_SECRETS),
                (self.update_service, FIXED_SERVICES),
                (self.read_service, (*FIXED_SERVICES, *CHURN_SERVICES)),
                (self.roll_back, FIXED_SERVICES),
                (self.roll_secret_back, CHAIN_SECRETS),
                (self.churn_service, CHURN_SERVICES),
                (self.label_node, tuple(agent.name for agent in self.workload.cluster.agents)),
                (self.read_node, tuple(agent.name for agent in self.workload.cluster.agents)),
                (self.drain_node, tuple(agent.name for agent in self.workload.cluster.agents[1:])),
            ],
            weights=[24, 14, 16, 8, 14, 10, 3, 3, 6, 6, 4, 2],
        )[0]
        if pool:
            action(draw.choice(pool))

    # --- secrets ---

    def _value(self, secret: str) -> tuple[str, bytes]:
        mark = f"{secret}-{self.client.random.randbytes(8).hex()}"
        self.workload.values[mark] = (secret, None)
        padding = self.client.random.randbytes(self.client.random.randrange(LONGEST))
        return mark, mark.encode() + b"\n" + padding + b"\nend"

    def create_secret(self, name: str) -> None:
        """Create a secret."""
        mark, value = self._value(name)
        operation = Operation(0, "", key_of("secret", name), "create", mark)
        answer = self.client.run(operation, "POST", f"/v1/secrets?name={name}", value, version_in)
        self._numbered(mark, name, answer)

    def rotate(self, name: str) -> None:
        """Rotate a secret; sometimes the version before stays active for a while."""
        mark, value = self._value(name)
        operation = Operation(0, "", key_of("secret", name), "rotate", mark)
        path = f"/v1/secrets/{name}/versions"
        if self.client.random.random() < OVERLAPPING:
            path += f"?overlap_s={self.client.random.uniform(0, 2):.1f}"
        self._numbered(mark, name, self.client.run(operation, "POST", path, value, version_in))

    def _numbered(self, mark: str, name: str, answer: Answered | None) -> None:
        if answer is not None and answer.status < 300:
            self.workload.values[mark] = (name, int(answer.body["version"]))

    def read_secret(self, name: str) -> None:
        """Read a secret's newest version number."""
        operation = Operation(0, "", key_of("secret", name), "read")
        self.client.run(operation, "GET", f"/v1/secrets/{name}", None, _newest_version)

    def roll_secret_back(self, name: str) -> None:
        """Make the version primary again that was it before."""
        operation = Operation(0, "", key_of("secret", name), "restore")
        self.client.run(operation, "POST", f"/v1/secrets/{name}/rollback", {}, _restored)

    def churn_secret(self, name: str) -> None:
        """Create, rotate or remove a secret that nothing refers to."""
        draw = self.client.random.random()
        if draw < 0.4:
            self.create_secret(name)
        elif draw < 0.7:
            self.rotate(name)
        else:
            operation = Operation(0, "", key_of("secret", name), "remove")
            self.client.run(operation, "DELETE", f"/v1/secrets/{name}")

    def issue(self, service: str) -> None:
        """Ask as a node for a secret of a service that may be placed on it."""
        agent = self.client.random.choice(self.workload.cluster.agents)
        secret = self.client.random.choice(references_of(service))
        operation = Operation(0, "", key_of("secret", secret), "issue", agent.name)
        node = replace_context(self.client, self.workload, agent.name)
        asking = self.workload.issue_caller(agent.name)
        node.run(operation, "POST", "/v1/issue", asking.body(service, secret), _issued_to(asking))

    # --- services ---

    def create_service(self, name: str) -> None:
        """Create a service."""
        tag = self._tag()
        operation = Operation(0, "", key_of("service", name), "create", tag)
        self.client.run(operation, "POST", "/v1/services", draft(name, tag), _created_service)

    def update_service(self, name: str) -> None:
        """Give a service another tag, mostly only if it is still what was read."""
        answer = self.read_service(name)
        expected = None
        if answer is not None and answer.status == 200 and self.client.random.random() < 0.8:
            expected = int(answer.body["spec_number"])
        tag = self._tag()
        operation = Operation(0, "", key_of("service", name), "update", tag, expected)
        body = {"spec": draft(name, tag), "expected_spec_number": expected}
        self.client.run(operation, "PUT", f"/v1/services/{name}", body, _spec_number)

    def roll_back(self, name: str) -> None:
        """Swap a service's spec with the one before."""
        operation = Operation(0, "", key_of("service", name), "rollback")
        self.client.run(operation, "POST", f"/v1/services/{name}/rollback", {}, _spec_number)

    def read_service(self, name: str) -> Answered | None:
        """Read a service."""
        operation = Operation(0, "", key_of("service", name), "read")
        return self.client.run(operation, "GET", f"/v1/services/{name}", None, _service)

    def churn_service(self, name: str) -> None:
        """Create or remove a service."""
        if self.client.random.random() < 0.5:
            self.create_service(name)
        else:
            operation = Operation(0, "", key_of("service", name), "remove")
            self.client.run(operation, "DELETE", f"/v1/services/{name}")

    # --- nodes ---

    def label_node(self, name: str) -> None:
        """Write a node's label."""
        tag = self._tag()
        operation = Operation(0, "", key_of("node", name), "assign", tag)
        self.client.run(operation, "PATCH", f"/v1/nodes/{name}", {"add_labels": {"tag": tag}})

    def read_node(self, name: str) -> None:
        """Read a node's label."""
        operation = Operation(0, "", key_of("node", name), "read")
        self.client.run(operation, "GET", f"/v1/nodes/{name}", None, _label)

    def drain_node(self, name: str) -> None:
        """Drain a node, or give it back."""
        state = self.client.random.choice(["drain", "active", "active"])
        operation = Operation(0, "", key_of("availability", name), "assign", state)
        self.client.run(operation, "PATCH", f"/v1/nodes/{name}", {"availability": state})

    def _tag(self) -> str:
        return f"t{self.client.random.randbytes(6).hex()}"


def references_of(service: str) -> tuple[str, ...]:
    """Return the secrets of a service."""
    number = int(service[1:])
    if service == LEASED:
        return (CHAIN_SECRETS[-1],)
    return (CHAIN_SECRETS[number], CHAIN_SECRETS[(number + 1) % len(CHAIN_SECRETS)])


def targets_of(service: str) -> tuple[str, ...]:
    """Return the files that a service may have."""
    both = (f"{BOTH}.previous",) if service == EVERYWHERE else ()
    return (*references_of(service), *both)


def draft(name: str, tag: str) -> dict[str, Any]:
    """Return a service's draft."""
    placed: dict[str, Any] = {"replicas": 2}
    lease = {"on_lease_loss": "wipe", "lease_s": LEASE_S} if name == LEASED else {}
    if name in {EVERYWHERE, LEASED}:
        placed = {"global": True}
    elif name == LASTING:
        placed = {"replicas": 1, "constraints": ["node.name==n1"]}
    return {
        "name": name,
        "uid": UIDS[name],
        "gid": UIDS[name],
        "labels": {"tag": tag},
        "references": [
            {"source": source, "previous": name == EVERYWHERE and source == BOTH, **lease}
            for source in references_of(name)
        ],
        **placed,
    }


def replace_context(client: Client, workload: Workload, node: str) -> Client:
    """Return `client` with a node's certificate; its draws go on."""
    return replace(client, context=lambda: workload.node_context(node))


def mark_of(content: bytes) -> str:
    """Return the mark of a value that is whole; empty for one that is not."""
    head, _, rest = content.partition(b"\n")
    return head.decode(errors="replace") if rest.endswith(b"\nend") else ""


def _result(number: int | None, value: str = "") -> Operation:
    return Operation(0, "", "", "read", result=number, value=value)


def version_in(answer: Answered) -> Operation:
    """Return what an answer to a creation or a rotation says."""
    return _result(int(answer.body["version"]))


def _newest_version(answer: Answered) -> Operation:
    return _result(max(int(version["number"]) for version in answer.body["versions"]))


def _restored(answer: Answered) -> Operation:
    return _result(int(answer.body["version"]))


def _spec_number(answer: Answered) -> Operation:
    return _result(int(answer.body.get("spec_number", 1)))


def _created_service(answer: Answered) -> Operation:
    return _result(1, str(answer.body["id"]))


def _service(answer: Answered) -> Operation:
    labels: Mapping[str, str] = answer.body["spec"]["labels"]
    return _result(int(answer.body["spec_number"]), labels["tag"])


def _label(answer: Answered) -> Operation:
    return _result(0, answer.body["labels"].get("tag", ""))


def _issued_to(asking: IssueCaller) -> Callable[[Answered], Operation]:
    def issued(answer: Answered) -> Operation:
        value = asking.opened(answer.content, answer.headers["strongroom-envelope"])
        return _result(int(answer.headers["strongroom-version"]), mark_of(value))

    return issued
