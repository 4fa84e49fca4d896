"""A running cluster for tests: real manager and agent processes on loopback, as they ship.

Managers are `strongroom manager run`, agents `strongroom-agent run`; founding, joining and
unlocking go through the admin socket and the join listener like an operator's. A test kills, stops,
restarts and locks them; whatever it leaves behind is ended by pid and every mount is detached.
Directories are short, because a unix socket's path takes 107 bytes.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent import linux
from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.pki.tls import client_context
from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import request, stream_lines
from cluster.protocol.ids import format_id
from tests.support.etcd_cluster import need_etcd
from tests.support.frozen import freeze_process

TRUST_DOMAIN: Final = "test.strongroom"
PATIENCE_S: Final = 90.0
"""How long a test waits for what must come true; generous, because it is no measurement."""
T = TypeVar("T")
SCRIPTS: Final = Path(sys.executable).parent

Body = bytes | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the API."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its key, and what it trusts: an operator's, a node's, or a thief's."""

    chain_pem: bytes
    key_pem: bytes
    control: tuple[bytes, ...]

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a client that shows it."""
        return client_context(self.control, self.chain_pem, self.key_pem)

    @classmethod
    def of_node(cls, data_dir: Path) -> Self:
        """Return what a thief finds in an agent's data directory."""
        from agent.identity import DataDirectory

        identity = DataDirectory(data_dir).load_identity()
        assert identity is not None
        return cls(identity.chain_pem, identity.key_pem, identity.bundle.control)


def node_id_of(credential: Credential) -> str:
    """Return whom a certificate names; empty where there is none."""
    if not credential.chain_pem:
        return ""
    leaf = x509.load_pem_x509_certificate(credential.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri.rpartition("/")[2]


def wait_until(holds: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """Return the first truthy result of `holds`; fail the test, naming `what`, if it never
    comes."""
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(ClusterError, OSError):
            if found := holds():
                return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not true after {patience_s:.0f} s: {what}")
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Process:
    """A child process with a log."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self.env = dict(env)
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the process must run."""
        assert self.child is not None
        return self.child.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Stop it where it is."""
        freeze_process(self.pid)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until it ends by itself and return its exit code."""
        assert self.child is not None
        return self.child.wait(patience_s)

    def text(self) -> str:
        """Return what it logged."""
        return self.log.read_text(errors="replace")

    def _end(self, number: signal.Signals) -> int:
        if self.child is None:
            return 0
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(number)
            try:
                self.child.wait(30)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait(30)


class ManagerProcess(Process):
    """A manager, `strongroom manager run`."""

    def __init__(self, name: str, base: Path, env: Mapping[str, str], etcd: Path | None) -> None:
        self.base = base
        self.api_port, self.join_port, self.peer_port = free_ports(3)
        argv = [
            str(SCRIPTS / "strongroom"), "manager", "run",
            "--name", name, "--advertise", "127.0.0.1",
            "--data-dir", str(base / "data"), "--run-dir", str(base / "run"),
            "--api-listen", f"127.0.0.1:{self.api_port}",
            "--join-listen", f"127.0.0.1:{self.join_port}",
            "--peer-listen", f"127.0.0.1:{self.peer_port}",
            *(["--etcd", str(etcd)] if etcd else []),
        ]  # fmt: skip
        base.mkdir(parents=True, exist_ok=True)
        super().__init__(name, argv, base / "manager.log", env)

    @property
    def api(self) -> str:
        """host:port of the listener that requires a certificate."""
        return f"127.0.0.1:{self.api_port}"

    @property
    def join(self) -> str:
        """host:port of the join listener."""
        return f"127.0.0.1:{self.join_port}"

    @property
    def admin_socket(self) -> Path:
        """The admin socket."""
        return self.base / "run" / "admin.sock"

    def start(self) -> None:
        """Start it and wait for its admin socket."""
        super().start()
        wait_until(self._answers_root, f"{self.name} answers root")

    def _answers_root(self) -> bool:
        if not self.running:
            pytest.fail(f"{self.name} ended at its start: {self.text()[-2000:]}")
        return self.admin("GET", "/admin/status").status == 200

    def admin(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Call the admin socket."""
        content = json.dumps(body).encode() if body is not None else b""
        reply = request([f"unix:{self.admin_socket}"], method, path, body=content, timeout_s=60)
        return Answer(reply.status, json.loads(reply.body), reply.headers)

    def admin_steps(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Call what answers line by line; return the lines."""
        content = json.dumps(body).encode()
        with stream_lines(
            [f"unix:{self.admin_socket}"], "POST", path, body=content, timeout_s=90
        ) as reply:
            return [json.loads(line) for line in reply.lines()]

    def state(self) -> str:
        """Return where it stands."""
        return str(self.admin("GET", "/admin/status").body["state"])

    def unlock(self, unlock_key: str) -> None:
        """Unlock it and wait until it serves."""
        steps = self.admin_steps("/admin/unlock", {"unlock_key": unlock_key})
        assert steps[-1] == {"done": True}, steps


class AgentProcess(Process):
    """An agent with kernel mounts, `strongroom-agent run`."""

    def __init__(self, name: str, base: Path, env: Mapping[str, str]) -> None:
        self.base = base
        self.data_dir = base / "data"
        self.run_dir = base / "run"
        argv = [
            str(SCRIPTS / "strongroom-agent"), "run",
            "--data-dir", str(self.data_dir), "--run-dir", str(self.run_dir),
        ]  # fmt: skip
        base.mkdir(parents=True, exist_ok=True)
        super().__init__(name, argv, base / "agent.log", env)

    def join(self, token: str, managers: Sequence[str]) -> None:
        """Join the cluster, as the command does it."""
        argv = [
            str(SCRIPTS / "strongroom-agent"),
            "join",
            "--name",
            self.name,
            "--data-dir",
            str(self.data_dir),
        ]
        argv += [word for address in managers for word in ("--manager", address)]
        done = subprocess.run(
            argv, input=token.encode(), capture_output=True, env=self.env, check=False
        )
        assert done.returncode == 0, done.stderr.decode()

    def lose_power(self) -> None:
        """End it as a power cut would: what was in memory is gone."""
        self.kill()
        for entry in reversed(linux.mount_table()):
            if Path(entry.mount_point).is_relative_to(self.run_dir):
                linux.unmount(entry.mount_point, linux.MNT_DETACH)
        (self.run_dir / "lease.json").unlink(missing_ok=True)

    def mount(self, service: str) -> Path:
        """Return where a service's files are."""
        return self.run_dir / "secrets" / service

    def read(self, service: str, target: str) -> bytes | None:
        """Return a file's content, or None while there is none."""
        try:
            return (self.mount(service) / target).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(slots=True)
class RunningCluster:
    """Managers, agents and an admin operator."""

    base: Path
    engine: str
    env: dict[str, str]
    managers: list[ManagerProcess] = field(default_factory=list)
    agents: list[AgentProcess] = field(default_factory=list)
    unlock_key: str = ""
    operator: Credential | None = None
    revision: str = ""
    manager_flags: tuple[str, ...] = ()
    """Further flags of every manager that is added."""

    # --- building ---

    def found(self, managers: int = 1, **more: object) -> Self:
        """Found the cluster, with `more` in the request, and join further managers."""
        first = self.add_manager()
        self.unlock_key = str(first.admin("POST", "/admin/unlock-key").body["unlock_key"])
        key = new_key()
        founding = {
            "unlock_key": self.unlock_key,
            "engine": self.engine,
            "trust_domain": TRUST_DOMAIN,
            "operator": "admin",
            "csr": base64.b64encode(make_csr(key)).decode(),
            **more,
        }
        reply = first.admin("POST", "/admin/init", founding)
        assert reply.status == 200, reply.body
        self.operator = credential_of(reply.body, key_to_pem(key))
        for _ in range(managers - 1):
            self.join_manager(self.add_manager())
        return self

    def add_manager(self) -> ManagerProcess:
        """Start one more manager process, empty."""
        name = f"m{len(self.managers) + 1}"
        etcd = need_etcd() if self.engine == "etcd" else None
        manager = ManagerProcess(name, self.base / name, self.env, etcd)
        manager.argv += self.manager_flags
        self.managers.append(manager)
        manager.start()
        return manager

    def join_manager(self, manager: ManagerProcess) -> None:
        """Let an empty manager join."""
        token = self.ok("POST", "/v1/tokens", {"role": "manager"})["token"]
        others = [one.join for one in self.managers if one is not manager]
        body = {"unlock_key": self.unlock_key, "token": token, "managers": others}
        steps = manager.admin_steps("/admin/join", body)
        assert steps[-1] == {"done": True}, steps

    def add_agent(self, labels: Mapping[str, str] | None = None) -> AgentProcess:
        """Join and start an agent, and wait until the managers call it ready."""
        name = f"n{len(self.agents) + 1}"
        agent = AgentProcess(name, self.base / name, self.env)
        self.agents.append(agent)
        token = self.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
        agent.join(token, [manager.join for manager in self.managers])
        agent.start()
        wait_until(lambda: self.node(name)["state"] == "ready", f"{name} is ready")
        if labels:
            self.ok("PATCH", f"/v1/nodes/{name}", {"add_labels": dict(labels)})
        return agent

    # --- using ---

    def call(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        credential: Credential | None = None,
        managers: Sequence[ManagerProcess] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call the API with the operator's certificate, or another's; read your writes on any
        manager."""
        shown = credential or self.operator
        assert shown is not None
        content = (
            body
            if isinstance(body, bytes)
            else json.dumps(body).encode()
            if body is not None
            else b""
        )
        sent = dict(headers or {})
        if self.revision and credential is None:
            sent.setdefault("strongroom-revision", self.revision)
        endpoints = [one.api for one in (managers or self.managers) if managers or one.running]
        reply = request(
            endpoints, method, path, body=content, headers=sent,
            context=shown.context(), trust_domain=TRUST_DOMAIN, timeout_s=60,
        )  # fmt: skip
        if credential is None:
            self.revision = reply.headers.get("strongroom-revision", self.revision)
        if reply.headers.get("content-type", "").startswith(
            ("application/octet-stream", "text/plain")
        ):
            return Answer(reply.status, {"value": reply.body}, reply.headers)
        return Answer(reply.status, json.loads(reply.body), reply.headers)

    def ok(self, method: str, path: str, body: Body = None) -> dict[str, Any]:
        """Call the API until a manager answers, under one request id, and expect success."""
        headers = {"strongroom-request-id": format_id(os.urandom(16))} if method != "GET" else {}
        answer = wait_until(
            lambda: self._settled(method, path, body, headers), f"{method} {path} is answered"
        )
        assert answer is not None
        assert answer.status < 300, answer.body
        return dict(answer.body)

    def _settled(
        self, method: str, path: str, body: Body, headers: dict[str, str]
    ) -> Answer | None:
        for manager in [one for one in self.managers if one.running]:
            # Whatever keeps one from answering, as a calendar by which no certificate is valid yet,
            # is no word of the others.
            with contextlib.suppress(ClusterError, OSError):
                answer = self.call(method, path, body, managers=[manager], headers=headers)
                if answer.status not in {429, 503}:
                    return answer
        return None

    def node(self, name: str) -> dict[str, Any]:
        """Return a node as operators see it."""
        return self.ok("GET", f"/v1/nodes/{name}")

    def create_secret(self, name: str, value: bytes) -> None:
        """Create a secret."""
        self.ok("POST", f"/v1/secrets?name={name}", value)

    def rotate(self, name: str, value: bytes) -> int:
        """Rotate a secret, wait until every node has it, and return the version."""
        answer = self.ok("POST", f"/v1/secrets/{name}/versions", value)
        self.wait_rollout(answer["rollout"])
        return int(answer["version"])

    def create_service(self, name: str, uid: int, *secrets: str, **more: object) -> None:
        """Create a service that refers to `secrets`, and wait until it is in place."""
        draft = {
            "name": name,
            "uid": uid,
            "gid": uid,
            "references": [{"source": s} for s in secrets],
            **more,
        }
        self.wait_rollout(self.ok("POST", "/v1/services", draft)["rollout"])

    def wait_rollout(self, rollout: str) -> dict[str, Any]:
        """Wait until a rollout is done."""
        found: dict[str, Any] = wait_until(
            lambda: (
                (state := self.ok("GET", f"/v1/rollouts/{rollout}?wait=5"))
                and state["done"]
                and state
            ),
            f"rollout {rollout} is done",
        )
        return found

    def leader(self) -> ManagerProcess:
        """Return the manager whose engine member leads."""
        name = wait_until(lambda: self.ok("GET", "/v1/status")["leader"], "there is a leader")
        return next(manager for manager in self.managers if manager.name == name)

    def unlock_all(self) -> None:
        """Unlock every locked manager; they wait for each other."""
        locked = [one for one in self.managers if one.running and one.state() == "locked"]
        waiting = [
            subprocess.Popen(
                [sys.executable, "-c", _UNLOCK, str(one.admin_socket)],
                stdin=subprocess.PIPE,
            )
            for one in locked
        ]
        for child in waiting:
            assert child.stdin is not None
            child.stdin.write(self.unlock_key.encode())
            child.stdin.close()
        assert [child.wait(90) for child in waiting] == [0] * len(waiting)

    def close(self) -> None:
        """End every process and take every mount away."""
        for process in (*self.agents, *self.managers):
            process.kill()
        for entry in reversed(linux.mount_table()):
            if Path(entry.mount_point).is_relative_to(self.base):
                with contextlib.suppress(OSError):
                    linux.unmount(entry.mount_point, linux.MNT_DETACH)
        shutil.rmtree(self.base, ignore_errors=True)


_UNLOCK = """
import json, sys
from cluster.protocol.https_client import stream_lines
body = json.dumps({"unlock_key": sys.stdin.read()}).encode()
with stream_lines(["unix:" + sys.argv[1]], "POST", "/admin/unlock", body=body, timeout_s=90) as got:
    lines = [json.loads(line) for line in got.lines()]
sys.exit(0 if lines[-1] == {"done": True} else str(lines[-1]))
"""


def credential_of(reply: Mapping[str, Any], key_pem: bytes) -> Credential:
    """Return the credential in a reply to a newcomer."""
    chain = b"".join(
        x509.load_der_x509_certificate(base64.b64decode(der)).public_bytes(Encoding.PEM)
        for der in reply["certificate_chain"]
    )
    control = tuple(base64.b64decode(der) for der in reply["bundle"]["control"])
    return Credential(chain, key_pem, control)


@contextlib.contextmanager
def running_cluster(
    managers: int = 1, agents: int = 0, engine: str = "sqlite", env: Mapping[str, str] | None = None
) -> Iterator[RunningCluster]:
    """Give a cluster that serves; print every log if the test fails."""
    with empty_cluster(engine, env) as cluster:
        cluster.found(managers)
        for _ in range(agents):
            cluster.add_agent()
        yield cluster


@contextlib.contextmanager
def empty_cluster(
    engine: str = "sqlite", env: Mapping[str, str] | None = None
) -> Iterator[RunningCluster]:
    """Give a cluster without any process; whatever is added to it is ended."""
    base = Path(tempfile.mkdtemp(prefix="sr-"))
    base.chmod(0o711)
    cluster = RunningCluster(base, engine, {**os.environ, **(env or {})})
    try:
        yield cluster
    except BaseException:
        for process in (*cluster.managers, *cluster.agents):
            sys.stderr.write(f"--- {process.name}\n{process.text()[-4000:]}\n")
        raise
    finally:
        cluster.close()
