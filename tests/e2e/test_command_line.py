"""The commands of README and tutorial against a real manager and agent: results, `--format json`,
`-q`, exit codes."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.command_line import RUN_TIMEOUT_S, CommandLine
from tests.support.lab_place import REPOSITORY
from tests.support.running import SCRIPTS, AgentProcess, RunningCluster, empty_cluster, wait_until


@dataclass(frozen=True, slots=True)
class Typed:
    """A cluster built by typing commands."""

    cluster: RunningCluster
    admin: CommandLine
    agent: AgentProcess
    key_file: Path

    @property
    def admin_socket(self) -> str:
        """The manager's admin socket."""
        return str(self.cluster.managers[0].admin_socket)

    @property
    def join_address(self) -> str:
        """The manager's join listener."""
        return self.cluster.managers[0].join

    def shell(self, name: str) -> CommandLine:
        """Return another person's shell."""
        return CommandLine(self.cluster.base / name)


@pytest.fixture(scope="module")
def typed() -> Iterator[Typed]:
    """`strongroom init`, `token create`, `strongroom-agent join`: nothing but commands."""
    with empty_cluster() as cluster:
        manager = cluster.add_manager()
        admin = CommandLine(cluster.base / "admin")
        key_file = admin.home / "unlock.key"
        socket = str(manager.admin_socket)
        said = admin.ok(
            "init", "--engine", "sqlite", "--trust-domain", "typed.test",
            "--unlock-key-file", str(key_file), "--admin-socket", socket,
        )  # fmt: skip
        assert "context default is ready" in said
        assert key_file.stat().st_mode & 0o777 == 0o600
        cluster.unlock_key = key_file.read_text().strip()
        agent = AgentProcess("n1", cluster.base / "n1", cluster.env)
        cluster.agents.append(agent)
        token = admin.ok("token", "create", "--role", "worker")
        joined = admin.run(
            "join", "--name", "n1", "--data-dir", str(agent.data_dir), "--manager", manager.join,
            stdin=token.encode(), program="strongroom-agent",
        )  # fmt: skip
        assert joined.code == 0, joined
        agent.start()
        wait_until(lambda: admin.json("node", "ls")[0]["state"] == "ready", "n1 is ready")
        yield Typed(cluster, admin, agent, key_file)


def typed_on(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command that a page of docs/how-to has typed, and what it quotes as the answer."""
    text = (REPOSITORY / "docs" / "how-to" / page).read_text()
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, quoted = part.partition("\n")
            yield command, quoted


def plain(text: str) -> str:
    """Return an answer without what differs between two runs."""
    text = re.sub(r"[0-9.]+ m?s$", "TIME", text, flags=re.MULTILINE)
    return re.sub(r"request [a-z2-7]{26}", "request REQUEST-ID", text)


def test_the_page_on_configs_shows_what_happens(typed: Typed) -> None:
    """Each command, in order, answers as the page quotes, and the file says so too."""
    admin = typed.admin
    files = []
    for command, quoted in typed_on("configs.md"):
        done = subprocess.run(
            ["sh", "-c", f"{command} 2>&1"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env={**admin.env, "PATH": f"{SCRIPTS}:{admin.env['PATH']}"},
            cwd=admin.home, timeout=RUN_TIMEOUT_S,
        )  # fmt: skip
        assert plain(done.stdout) == plain(quoted), command
        if re.match(r"strongroom service (create|update|rollback)", command):
            files.append(typed.agent.read("proxy", "nginx.conf"))
    assert files == [b"listen 8080;\n", b"listen 9090;\n", b"listen 8080;\n"]


def test_a_secret_from_creation_to_removal(typed: Typed) -> None:
    """create, service create, ps, rotate, rm: each line is true when it is printed."""
    admin = typed.admin
    (admin.home / "password.txt").write_bytes(b"first")
    assert (
        admin.ok("secret", "create", "db-password", "password.txt", "--label", "app=web")
        == "secret db-password created, version 1\n"
    )
    said = admin.ok("service", "create", "web", "--secret", "db-password", "--uid", "23001")
    assert re.fullmatch(r"service web on 1 of 1 node in .*s\n", said), said
    assert typed.agent.read("web", "db-password") == b"first"
    said = admin.ok("secret", "rotate", "db-password", "-", stdin=b"second")
    assert re.fullmatch(r"version 2 on 1 of 1 node in .*s\n", said), said
    assert typed.agent.read("web", "db-password") == b"second"
    table = admin.ok("service", "ps", "web").splitlines()
    assert table[0].split()[:2] == ["NODE", "NODE"]
    assert re.match(r"n1 +ready +running +db-password +db-password +2 +2 +", table[1]), table
    assert admin.ok("service", "ls", "-q") == "web\n"
    assert admin.ok("secret", "ls", "-q") == "db-password\n"
    assert admin.ok("secret", "ls", "-q", "--filter", "label=app=other") == ""
    shown = admin.json("secret", "inspect", "db-password")
    assert (shown["name"], shown["used_by"]) == ("db-password", ["web"])
    assert "web" in admin.refused(1, "secret", "rm", "db-password")
    said = admin.ok("service", "update", "web", "--constraint", "node.name==n1")
    assert said.startswith("spec 2 on 1 of 1 node")
    assert admin.ok("service", "rollback", "web").startswith("spec 3 on 1 of 1 node")
    assert admin.ok("service", "rm", "web") == "service web removed\n"
    wait_until(lambda: admin.run("secret", "rm", "db-password").code == 0, "it can be removed")


def test_the_exit_codes_say_what_happened(typed: Typed) -> None:
    """1 refused, 2 usage, 3 not permitted, 5 nobody answers; 4 is in test_waiting."""
    admin = typed.admin
    assert "secret ls" in admin.refused(1, "secret", "inspect", "nothing")
    assert "--help" in admin.refused(2, "secret", "frobnicate")
    secret_argument = admin.refused(2, "secret", "create", "named", "file", "typed-by-mistake")
    assert "typed-by-mistake" not in secret_argument
    admin.refused(1, "secret", "create", "named", "no-such-file")
    admin.refused(1, "secret", "create", "bad/name", "-", stdin=b"value")
    assert "empty" in admin.refused(1, "secret", "create", "named", "-", stdin=b"")
    assert "too large" in admin.refused(1, "secret", "create", "named", "-", stdin=bytes(512_000))
    stranger = typed.shell("stranger")
    stranger.refused(1, "secret", "ls")
    manager = typed.cluster.managers[0]
    manager.stop()
    try:
        admin.refused(5, "secret", "ls")
        manager.start()
        error = admin.refused(5, "secret", "ls")
        assert "lock" in error or "no manager" in error
    finally:
        if not manager.running:
            manager.start()
        said = admin.ok(
            "unlock", "--key-file", str(typed.key_file), "--admin-socket", typed.admin_socket
        )
        assert said.endswith("unlocked\n")
    admin.ok("secret", "ls")


def test_unlock_with_the_wrong_key_is_refused(typed: Typed) -> None:
    """The manager stays locked, and the right key still opens it."""
    manager = typed.cluster.managers[0]
    manager.kill()
    manager.start()
    wrong = manager.admin("POST", "/admin/unlock-key").body["unlock_key"]
    socket = typed.admin_socket
    typed.admin.refused(3, "unlock", "--admin-socket", socket, stdin=wrong.encode())
    assert manager.state() == "locked"
    typed.admin.refused(1, "unlock", "--admin-socket", socket, stdin=b"no key at all")
    assert "locked" in typed.admin.ok("status", "--admin-socket", socket)
    key = typed.key_file.read_bytes()
    typed.admin.ok("unlock", "--admin-socket", socket, stdin=key)
    typed.admin.ok("secret", "ls")


def test_init_is_refused_over_existing_data(typed: Typed) -> None:
    """An initialised manager is never founded again, and the context stays as it is."""
    admin = typed.admin
    flags = ("init", "--engine", "sqlite", "--admin-socket", typed.admin_socket)
    refused = admin.refused(
        1, *flags, "--context", "second", "--unlock-key-file", str(admin.home / "second.key")
    )
    assert "cluster already" in refused
    assert not (admin.home / "second.key").exists()
    assert "terminal" in admin.refused(1, *flags, "--context", "second")
    key = str(admin.home / "third.key")
    assert "context" in admin.refused(1, *flags, "--unlock-key-file", key)


def test_tokens_are_listed_spent_and_removed(typed: Typed) -> None:
    """A token is shown once; ls shows what still admits; rm ends it; a manager token on SQLite
    points to the migration."""
    admin = typed.admin
    token = admin.ok("token", "create", "--role", "worker", "--ttl", "10m", "--uses", "2")
    assert re.fullmatch(r"SRTKN-1-\S+\n", token)
    (listed,) = admin.json("token", "ls")
    assert listed["uses_left"] == 2
    assert token.strip().rsplit("-", 1)[1] not in str(listed)
    admin.ok("token", "rm", listed["id"])
    assert admin.json("token", "ls") == []
    late = admin.run(
        "join", "--name", "late", "--data-dir", str(admin.home / "late"),
        "--manager", typed.join_address, stdin=token.encode(), program="strongroom-agent",
    )  # fmt: skip
    assert late.code != 0
    assert "token" in late.stderr
    assert "strongroom store migrate" in admin.refused(1, "token", "create", "--role", "manager")


def test_operators_have_roles_and_come_back(typed: Typed) -> None:
    """add, enrol, what each role may do, renew on the admin socket, rm."""
    admin = typed.admin
    admin.ok("secret", "create", "web-key", "-", "--label", "app=web", stdin=b"w")
    admin.ok("secret", "create", "ops-key", "-", "--label", "app=ops", stdin=b"o")
    people = {}
    for name, words in {
        "anna": ("--role", "auditor"),
        "dirk": ("--role", "deployer", "--label", "app=web"),
    }.items():
        token = admin.ok("operator", "add", name, *words)
        people[name] = typed.shell(name)
        enrol = ("operator", "enrol", "--manager", typed.join_address)
        people[name].ok(*enrol, stdin=token.encode())
        again = typed.shell(f"{name}-again")
        again.refused(3, *enrol, stdin=token.encode())
    anna, dirk = people["anna"], people["dirk"]
    assert anna.ok("secret", "ls", "-q").split() == ["ops-key", "web-key"]
    anna.refused(3, "secret", "rotate", "web-key", "-", stdin=b"x")
    dirk.ok("secret", "rotate", "web-key", "-", stdin=b"x")
    dirk.refused(3, "secret", "rotate", "ops-key", "-", stdin=b"x")
    dirk.refused(3, "operator", "add", "evil", "--role", "admin")
    dirk.refused(3, "token", "create", "--role", "worker")
    roles = {row["name"]: row["role"] for row in admin.json("operator", "ls")}
    assert roles == {"admin": "admin", "anna": "auditor", "dirk": "deployer"}

    socket = typed.admin_socket
    dirk.ok("operator", "renew", "dirk", "--admin-socket", socket)
    dirk.ok("secret", "rotate", "web-key", "-", stdin=b"y")
    admin.ok("operator", "rm", "dirk")
    dirk.refused(3, "secret", "ls")


def test_contexts_are_private_and_chosen(typed: Typed) -> None:
    """0600 in a 0700 directory; use, show without the key, rm."""
    shell = typed.shell("contexts")
    socket = typed.admin_socket
    for name in ("one", "two"):
        shell.ok("operator", "renew", "admin", "--context", name, "--admin-socket", socket)
    assert shell.ok("context", "ls", "-q").split() == ["one", "two"]
    files = [path for path in (shell.home / "strongroom").rglob("*") if path.is_file()]
    assert files
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (shell.home / "strongroom").stat().st_mode & 0o777 == 0o700
    shell.ok("context", "use", "two")
    assert "PRIVATE" not in shell.ok("context", "show")
    shell.ok("--context", "two", "secret", "ls")
    shell.ok("context", "rm", "two")
    shell.refused(1, "--context", "two", "secret", "ls")
    # The harness's own certificate is the admin's third newest by now.
    typed.admin.ok("operator", "renew", "admin", "--context", "default", "--admin-socket", socket)


def test_status_and_nodes_are_shown(typed: Typed) -> None:
    """Managers, engine, lock state and agents; nodes with their states."""
    admin = typed.admin
    status = admin.json("status")
    assert (status["engine"]["kind"], len(status["managers"])) == ("sqlite", 1)
    table = admin.ok("status")
    assert "m1" in table
    (node,) = admin.json("node", "ls")
    assert (node["name"], node["state"], node["availability"]) == ("n1", "ready", "active")
    admin.ok("node", "drain", "n1")
    assert admin.json("node", "inspect", "n1")["availability"] == "drain"
    admin.ok("node", "activate", "n1")
    assert admin.ok("node", "ls", "-q") == "n1\n"
    assert admin.ok("manager", "ls", "-q") == "m1\n"
