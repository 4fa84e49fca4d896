"""init, join, unlock and status over the admin socket; enrolment over the join listener."""

import contextlib
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.context_files import ContextFiles
from cluster.pki.join_token import JoinToken
from cluster.pki.tls import server_context
from cluster.protocol.identity import Kind
from tests.support.authority import ClusterAuthority
from tests.unit.cli.canned import Asked, Canned, tls_manager
from tests.unit.cli.conftest import Run, context_for, reply_to

KEY = "SRUNLK-1-canary"


@pytest.fixture
def founding(admin: Canned, authority: ClusterAuthority) -> Canned:
    """An admin socket that founds clusters."""

    def found(asked: Asked) -> tuple[int, Any]:
        reply = reply_to(authority, asked.json["csr"], "127.0.0.1:1", asked.json["operator"])
        return 200, {**reply, "cluster_id": "c1", "manager_id": "m1"}

    admin.on("GET /admin/status", (200, {"name": "m1", "state": "empty"}))
    admin.on("POST /admin/unlock-key", (200, {"unlock_key": KEY}))
    admin.on("POST /admin/init", found)
    return admin


def lines(*steps: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(step).encode() + b"\n" for step in steps)


def test_init_saves_the_unlock_key_before_anything_is_founded(
    run: Run, founding: Canned, files: ContextFiles, authority: ClusterAuthority, tmp_path: Path
) -> None:
    path = tmp_path / "unlock-key"
    seen: list[str] = []

    def found(asked: Asked) -> tuple[int, Any]:
        seen.append(path.read_text())
        reply = reply_to(authority, asked.json["csr"], "127.0.0.1:1", "root")
        return 200, {**reply, "cluster_id": "c1"}

    founding.on("POST /admin/init", found)
    words = ("init", "--engine", "etcd", "--admin-socket", founding.endpoint, "--operator", "root")
    done = run(*words, "--unlock-key-file", str(path))
    assert (done.code, done.err) == (0, "")
    assert seen == [f"{KEY}\n"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KEY not in done.out
    assert done.out.splitlines()[0] == "cluster c1 (lab.test) is up on etcd"
    asked = founding.asked[-1].json
    assert {**asked, "csr": ""} == {
        "unlock_key": KEY,
        "engine": "etcd",
        "trust_domain": "strongroom.internal",
        "operator": "root",
        "csr": "",
        "node_ttl_s": 86_400.0,
        "service_ttl_s": 3_600.0,
    }
    context = files.load(files.current())
    assert (context.operator, context.endpoints) == ("root", ("127.0.0.1:1",))


def test_init_without_a_terminal_or_a_file_asks_for_nothing(run: Run, founding: Canned) -> None:
    done = run("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    assert (done.code, founding.asked) == (1, [])
    assert "--unlock-key-file" in done.err


def test_init_never_writes_over_a_key(run: Run, founding: Canned, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("another key")
    words = ("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    assert run(*words, "--unlock-key-file", str(path)).code == 1
    assert (path.read_text(), founding.asked) == ("another key", [])


@pytest.mark.parametrize("state", ["locked", "serving", "starting"])
def test_init_of_a_manager_that_has_a_cluster_makes_no_key(
    run: Run, founding: Canned, tmp_path: Path, state: str
) -> None:
    founding.on("GET /admin/status", (200, {"name": "m1", "state": state}))
    words = ("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    done = run(*words, "--unlock-key-file", str(tmp_path / "key"))
    assert (done.code, len(founding.asked)) == (1, 1)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("answer", [(400, {"message": "no"}), (0, None), (200, b"{")])
def test_init_that_fails_keeps_the_key(
    run: Run, founding: Canned, tmp_path: Path, answer: tuple[int, Any]
) -> None:
    """A cluster may have been founded on it: only its owner can tell that it is of no use."""
    founding.on("POST /admin/init", answer)
    words = ("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    done = run(*words, "--unlock-key-file", str(tmp_path / "key"))
    assert done.code in {1, 5}
    assert (tmp_path / "key").read_text() == f"{KEY}\n"
    assert "before you try again" in done.err
    assert KEY not in done.err


def test_init_on_a_terminal_shows_the_key(
    run: Run, founding: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    done = run("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    assert done.code == 0
    assert done.out.splitlines()[1] == KEY


def test_init_keeps_a_context_that_is_there(
    run: Run,
    founding: Canned,
    files: ContextFiles,
    authority: ClusterAuthority,
    tmp_path: Path,
) -> None:
    files.save(context_for(authority, ("127.0.0.1:1",), name="default"))
    words = ("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    done = run(*words, "--unlock-key-file", str(tmp_path / "key"))
    assert (done.code, founding.asked) == (1, [])
    assert "--context" in done.err


def test_unlock_prints_its_steps(run: Run, admin: Canned) -> None:
    steps = lines({"step": "waiting for quorum", "detail": "1 of 2"}, {"done": True})
    admin.on("POST /admin/unlock", (200, steps))
    words = ("unlock", "--admin-socket", admin.endpoint)
    done = run(*words, stdin=f" {KEY}\n".encode())
    assert (done.code, done.out) == (0, "waiting for quorum, 1 of 2\nunlocked\n")
    assert admin.only().json == {"unlock_key": KEY}
    assert run(*words, "--detach", stdin=KEY.encode()).out == "waiting for quorum, 1 of 2\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((200, lines({"error": {"code": "permission_denied", "message": "wrong key"}})), 3),
        ((400, {"code": "invalid_request", "message": "wrong key"}), 1),
        ((200, lines({"step": "one"})), 5),
        ((200, b"canary\n"), 1),
    ],
)
def test_unlock_that_fails(run: Run, admin: Canned, answer: tuple[int, Any], code: int) -> None:
    admin.on("POST /admin/unlock", answer)
    done = run("unlock", "--admin-socket", admin.endpoint, stdin=KEY.encode())
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert "canary" not in done.out + done.err


ON_TERMINAL = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)  # the first terminal a session leader opens is its own
from cluster.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


def test_unlock_prompts_without_echo_on_a_terminal(admin: Canned) -> None:
    """A real terminal: what is typed does not come back from it."""
    admin.on("POST /admin/unlock", (200, lines({"done": True})))
    terminal, inside = pty.openpty()
    command = [sys.executable, "-c", ON_TERMINAL, "unlock", "--admin-socket", admin.endpoint]
    with subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    ) as process:
        os.close(inside)
        shown = b""
        while b"Unlock key: " not in shown:
            shown += os.read(terminal, 1024)
        os.write(terminal, f"{KEY}\n".encode())
        # EIO is how a terminal says that nobody holds its other end any more.
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 1024):
                shown += data
        assert process.wait(30) == 0
    os.close(terminal)
    assert KEY.encode() not in shown
    assert b"unlocked" in shown
    assert admin.only().json == {"unlock_key": KEY}


def test_no_manager_on_the_socket_says_what_to_do(run: Run, tmp_path: Path) -> None:
    done = run("unlock", "--admin-socket", str(tmp_path / "none.sock"), stdin=KEY.encode())
    assert (done.code, done.out) == (5, "")
    assert "`strongroom manager run`" in done.err


def test_join_sends_token_and_key_and_prints_progress(
    run: Run, admin: Canned, tmp_path: Path
) -> None:
    steps = lines({"step": "becoming a learner"}, {"step": "catching up"}, {"done": True})
    admin.on("POST /admin/join", (200, steps))
    (tmp_path / "key").write_text(f"{KEY}\n")
    words = ("join", "--admin-socket", admin.endpoint, "--manager", "a:7444", "--manager", "b:7444")
    done = run(*words, "--unlock-key-file", str(tmp_path / "key"), stdin=b"SRTKN-1-x\n")
    assert done.out == "becoming a learner\ncatching up\nthis manager has joined the cluster\n"
    assert admin.only().json == {
        "managers": ["a:7444", "b:7444"],
        "token": "SRTKN-1-x",
        "unlock_key": KEY,
    }
    done = run(*words, stdin=b"SRTKN-1-x\n")
    assert (done.code, len(admin.asked)) == (1, 1)


def test_status_of_a_locked_manager(run: Run, admin: Canned) -> None:
    locked = {"name": "m1", "state": "locked", "step": "", "reason": "the manager is locked"}
    admin.on("GET /admin/status", (200, locked))
    done = run("status", "--admin-socket", admin.endpoint)
    assert done.out.splitlines() == [
        "manager      m1",
        "state        locked (the manager is locked)",
        "run `strongroom unlock` on it",
    ]
    assert run("status", "-q", "--admin-socket", admin.endpoint).out == "locked\n"


def test_renew_as_root_writes_a_context(
    run: Run, admin: Canned, files: ContextFiles, authority: ClusterAuthority
) -> None:
    def renewed(asked: Asked) -> tuple[int, Any]:
        return 200, reply_to(authority, asked.json["csr"], "127.0.0.1:1")

    admin.on("POST /admin/operator-renew", renewed)
    files.save(context_for(authority, ("127.0.0.1:1",), name="prod", ends_in_s=-1))
    done = run("operator", "renew", "alice", "--admin-socket", admin.endpoint)
    assert done.out == "renewed alice (admin); context prod is ready\n"
    assert admin.only().json["name"] == "alice"
    assert files.load("prod").not_after > authority.clock.now().timestamp()


# --- enrolment ------------------------------------------------------------------------------------


@pytest.fixture
def join_listener(authority: ClusterAuthority) -> Iterator[Canned]:
    """A manager's listener for those who have no certificate."""
    served = authority.issue(Kind.MANAGER, "m1")
    with tls_manager(server_context(served.chain_pem, served.key_pem, None)) as canned:

        def enrolled(asked: Asked) -> tuple[int, Any]:
            return 200, reply_to(authority, asked.json["csr"], "127.0.0.1:1", "bob")

        canned.on("GET /v1/ca", (200, authority.bundle().to_dict()))
        canned.on("POST /v1/enrol", enrolled)
        yield canned


@pytest.fixture
def token(authority: ClusterAuthority) -> str:
    return JoinToken.new(authority.bundle().root_digest(), authority.entropy).format()


def test_enrol_writes_a_context(
    run: Run, files: ContextFiles, join_listener: Canned, token: str
) -> None:
    words = ("operator", "enrol", "--manager", join_listener.endpoint)
    done = run(*words, "--context", "prod", stdin=f"{token}\n".encode())
    assert (done.code, done.err) == (0, "")
    assert done.out == "enrolled as bob (admin); context prod is ready\n"
    assert join_listener.asked[1].json["token"] == token
    assert files.load(files.current()).operator == "bob"


def test_a_further_context_does_not_take_the_place_of_the_one_in_use(
    run: Run,
    files: ContextFiles,
    founding: Canned,
    join_listener: Canned,
    token: str,
    tmp_path: Path,
) -> None:
    words = ("init", "--engine", "sqlite", "--admin-socket", founding.endpoint)
    run(*words, "--unlock-key-file", str(tmp_path / "key"))
    enrol = ("operator", "enrol", "--manager", join_listener.endpoint, "--context", "bob")
    assert run(*enrol, stdin=token.encode()).code == 0
    assert (files.names(), files.current()) == (["bob", "default"], "default")


@pytest.mark.threat("T-11")
def test_a_bundle_on_another_root_is_not_kept(
    run: Run, files: ContextFiles, join_listener: Canned, authority: ClusterAuthority, token: str
) -> None:
    """What is believed from now on must stand on the root the token pins."""
    other = ClusterAuthority(authority.trust_domain)

    def enrolled(asked: Asked) -> tuple[int, Any]:
        return 200, reply_to(other, asked.json["csr"], "127.0.0.1:1", "bob")

    join_listener.on("POST /v1/enrol", enrolled)
    words = ("operator", "enrol", "--manager", join_listener.endpoint)
    assert run(*words, stdin=token.encode()).code == 3
    assert files.names() == []


@pytest.mark.threat("T-11")
def test_a_cluster_that_is_not_the_tokens_never_sees_it(
    run: Run, files: ContextFiles, join_listener: Canned, authority: ClusterAuthority
) -> None:
    other = ClusterAuthority(authority.trust_domain)
    token = JoinToken.new(other.bundle().root_digest(), authority.entropy).format()
    words = ("operator", "enrol", "--manager", join_listener.endpoint)
    done = run(*words, stdin=token.encode())
    assert done.code == 3
    assert [asked.path for asked in join_listener.asked] == ["/v1/ca"]
    assert files.names() == []


@pytest.mark.threat("T-11")
def test_a_stolen_bundle_is_not_enough(run: Run, token: str, authority: ClusterAuthority) -> None:
    """An impostor can show the real bundle, but has no certificate under it."""
    impostor = ClusterAuthority().issue(Kind.MANAGER, "m1")
    with tls_manager(server_context(impostor.chain_pem, impostor.key_pem, None)) as canned:
        canned.on("GET /v1/ca", (200, authority.bundle().to_dict()))
        done = run("operator", "enrol", "--manager", canned.endpoint, stdin=token.encode())
    assert done.code == 5
    assert [asked.path for asked in canned.asked] == ["/v1/ca"]


def test_an_enrolment_whose_answer_was_lost_is_repeated_with_the_same_key(
    run: Run, files: ContextFiles, join_listener: Canned, authority: ClusterAuthority, token: str
) -> None:
    def enrolled(asked: Asked) -> tuple[int, Any]:
        return 200, reply_to(authority, asked.json["csr"], "127.0.0.1:1", "bob")

    join_listener.on("POST /v1/enrol", (0, None), enrolled)
    words = ("operator", "enrol", "--manager", join_listener.endpoint)
    assert run(*words, stdin=token.encode()).code == 5
    assert files.names() == []
    pending = files.pending_key("default")
    assert run(*words, stdin=token.encode()).code == 0
    assert files.load("default").key_pem == pending


def test_a_token_on_the_command_line_is_not_repeated(run: Run, home: Path, token: str) -> None:
    done = run("operator", "enrol", "--manager", "127.0.0.1:1", "--token-file", token)
    assert (done.code, token in done.err) == (1, False)
    done = run("operator", "enrol", "--manager", "127.0.0.1:1", token)
    assert (done.code, token in done.err) == (2, False)
    done = run("operator", "enrol", "--manager", "127.0.0.1:1", stdin=b"canary")
    assert (done.code, "canary" in done.err) == (1, False)
