"""Rotations that go out in groups, take themselves back, or are made by the cluster with a hook at
a third party; and a service with a certificate. Two clients of their own, drawn by the seed.

`GATED` is used by a service whose check refuses every value whose mark says so. `HOOKED` is rotated
by the cluster; what nodes are issued of it is remembered, to be compared with the third party.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.client import Client
from tests.faults.history import Operation
from tests.faults.sidecars import PROBE
from tests.faults.third_party import HOOK, Issued, calls, digest_of
from tests.faults.workload import Workload, finish, key_of, replace_context, version_in
from tests.support.running import AgentProcess, wait_until

GATED: Final = "r0"
GATED_SERVICE: Final = "x0"
HOOKED: Final = "h0"
HOOKED_SERVICE: Final = "y0"
"""It has a certificate as well."""
FIRST_CREDENTIAL: Final = b"the first credential"
REFUSED: Final = "-no"
"""In the mark of a value that the service refuses; not hexadecimal."""
EVERY_S: Final = 60.0
OVERLAP_S: Final = 5.0
CANARY: Final = 1
TO_ITS_END_S: Final = 40.0
BETWEEN_S: Final = (0.5, 5.0)
ENDING: Final = 0.7
"""The share of rollouts that are not followed by another before their end."""
REST_S: Final = 300.0
"""How long rollouts may take to end at rest."""


def gated_draft() -> dict[str, Any]:
    """Return the service that refuses values."""
    pattern = f"^{GATED}-[0-9a-f]*$"
    return {
        "name": GATED_SERVICE,
        "uid": 31_101,
        "gid": 31_101,
        "global": True,
        # The probe runs no checks, and would end every rollout as the canary that says nothing.
        "constraints": [f"node.name!={PROBE}"],
        "references": [{"source": GATED}],
        "update": {"canary": CANARY, "monitor_s": 1, "patience_s": 30, "on_failure": "rollback"},
        "health": {
            "command": ["/bin/grep", "-aq", pattern, f"/run/secrets/{GATED}"],
            "interval_s": 2,
            "timeout_s": 15,
            "retries": 1,
        },
    }


def hooked_draft() -> dict[str, Any]:
    """Return the service that uses the third party, and has a certificate."""
    return {
        "name": HOOKED_SERVICE,
        "uid": 31_102,
        "gid": 31_102,
        "global": True,
        "references": [{"source": HOOKED}],
        "certificate": True,
    }


@dataclass(slots=True)
class Rotations:
    """Both clients, and what they know."""

    workload: Workload
    issued: list[Issued] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def prepare(self) -> None:
        """Make what the clients work on."""
        cluster = self.workload.cluster
        client = self.workload.client("gate", gives_up=0)
        self._write(client, "create", refused=False)
        cluster.ok("POST", f"/v1/secrets?name={HOOKED}&overlap_s={OVERLAP_S}", FIRST_CREDENTIAL)
        schedule = {"every_s": EVERY_S, "generator": "hex", "hook": HOOK}
        cluster.ok("PUT", f"/v1/secrets/{HOOKED}/schedule", schedule)
        for draft in (gated_draft(), hooked_draft()):
            made = cluster.ok("POST", "/v1/services", draft)
            self.workload.service_names[made["id"]] = str(draft["name"])

    def start(self) -> None:
        """Start the clients."""
        for name, act in (("gate", self._gate), ("hook", self._hook)):
            thread = threading.Thread(target=self._run, args=(name, act), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let the clients finish what they do."""
        self._stop.set()
        for thread in self._threads:
            finish(thread, self.failures)

    def _run(self, name: str, act: Any) -> None:  # noqa: ANN401  # one of the two methods below
        client = self.workload.client(name)
        try:
            while not self._stop.is_set():
                act(client)
        except Exception as error:  # a broken client would make a run that proves nothing
            self.failures.append(f"{name} broke: {type(error).__name__}: {error}")
            raise

    # --- in groups ---

    def _gate(self, client: Client) -> None:
        """Rotate, to a value that is refused or not; sometimes step into the rollout."""
        rollout = self._write(client, "rotate", refused=client.random.random() < 0.5)
        draw = client.random.random()
        if rollout is not None and draw < 0.3:
            self._stop.wait(client.random.uniform(0, 6))
            client.ask("POST", f"/v1/rollouts/{rollout}/pause", {})
            self._stop.wait(client.random.uniform(0, 4))
            action = "resume" if draw < 0.2 else "rollback"
            client.ask("POST", f"/v1/rollouts/{rollout}/{action}", {})
        if rollout is not None and client.random.random() < ENDING:
            self._await_end(client, rollout)
        self._stop.wait(client.random.uniform(*BETWEEN_S))

    def _await_end(self, client: Client, rollout: str) -> None:
        """Let a rollout come to its end or a halt; a fault may take longer than this waits."""
        until = client.now() + TO_ITS_END_S
        while client.now() < until and not self._stop.wait(1):
            answer = client.ask("GET", f"/v1/rollouts/{rollout}", writes=False)
            if answer is not None and answer.body.get("done"):
                return

    def _write(self, client: Client, action: str, *, refused: bool) -> str | None:
        """Create or rotate the gated secret; return the rollout, if one is known."""
        mark = f"{GATED}{REFUSED if refused else '-'}{client.random.randbytes(8).hex()}"
        self.workload.values[mark] = (GATED, None)
        value = mark.encode() + b"\n" + client.random.randbytes(100).hex().encode() + b"\nend"
        operation = Operation(0, "", key_of("secret", GATED), action, mark)
        path = f"?name={GATED}" if action == "create" else f"/{GATED}/versions"
        answer = client.run(operation, "POST", f"/v1/secrets{path}", value, version_in)
        if answer is None or answer.status >= 300:
            return None
        self.workload.values[mark] = (GATED, int(answer.body["version"]))
        return str(answer.body.get("rollout", "")) or None

    def refused_versions(self) -> set[tuple[str, int]]:
        """Return the versions whose values the service refuses, as far as their numbers are
        known."""
        return {
            (name, version)
            for mark, (name, version) in self.workload.values.items()
            if version is not None and mark.startswith(GATED + REFUSED)
        }

    # --- by the cluster ---

    def _hook(self, client: Client) -> None:
        """Start rotations, give some up, and ask as a node for what is in use."""
        draw = client.random.random()
        if draw < 0.12:
            client.ask("POST", f"/v1/secrets/{HOOKED}/rotation", {})
        elif draw < 0.14:
            client.ask("DELETE", f"/v1/secrets/{HOOKED}/rotation")
        else:
            self.issue(client)
        self._stop.wait(client.random.uniform(0, 0.8))

    def issue(self, client: Client) -> bytes | None:
        """Ask for the credential as a node; remember when, and what came."""
        agent = client.random.choice(self.workload.cluster.agents)
        asking = self.workload.issue_caller(agent.name)
        body = asking.body(HOOKED_SERVICE, HOOKED)
        node = replace_context(client, self.workload, agent.name)
        start = time.monotonic()
        answer = node.ask("POST", "/v1/issue", body, writes=False)
        if answer is None or answer.status >= 300:
            return None
        value = asking.opened(answer.content, answer.headers["strongroom-envelope"])
        self.issued.append(Issued(start, time.monotonic(), digest_of(value)))
        return value

    # --- at rest ---

    def come_to_rest(self) -> list[str]:
        """End what is open; return what does not end."""
        cluster = self.workload.cluster
        cluster.ok("DELETE", f"/v1/secrets/{HOOKED}/schedule")
        for rollout in self._open():
            if rollout["state"] == "paused":
                cluster.call("POST", f"/v1/rollouts/{rollout['id']}/resume", {})
        try:
            wait_until(lambda: not self._open(), "rollouts end", REST_S)
        except AssertionError:
            return [f"a rollout does not end at rest: {one}" for one in self._open()]
        return []

    def _open(self) -> list[dict[str, Any]]:
        found = self.workload.cluster.ok("GET", "/v1/rollouts")["rollouts"]
        return [one for one in found if one["name"] == GATED and not one["finished_at"]]

    def faults_at_rest(self, told: dict[str, Any]) -> Iterator[str]:
        """Yield where a value that is refused, or one that is not in use, is still in a file.

        `told`: what a store reader told, once the files follow it.
        """
        agents = {one.name: one for one in self.workload.cluster.agents}
        for agent in agents.values():
            if (agent.read(GATED_SERVICE, GATED) or b"").startswith(f"{GATED}{REFUSED}".encode()):
                yield f"{agent.name} has a value of {GATED} that its service refuses"
        places = [node for service, node, *_ in told["files"] if service == HOOKED_SERVICE]
        client = self.workload.client("final hook", gives_up=0)
        try:
            wait_until(lambda: self._in_use(client, [agents[n] for n in places if n in agents]), "")
        except AssertionError:
            yield f"a file of {HOOKED} is not what is in use"

    def _in_use(self, client: Client, agents: Sequence[AgentProcess]) -> bool:
        """Return whether the files hold the credential in use, and the third party accepts it."""
        value = self.issue(client)
        if value is None:
            return False
        told = calls(self.workload.cluster.base)
        accepted = not told or digest_of(value) in told[-1].accepted
        return accepted and all(agent.read(HOOKED_SERVICE, HOOKED) == value for agent in agents)
