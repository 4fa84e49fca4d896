"""Failover, resending under one id, revisions, impostors, and renewal on use."""

import socket
import stat
from collections.abc import Iterator

import pytest

from cluster.cli.connection import Connection
from cluster.cli.context_files import Context, ContextFiles
from cluster.pki.tls import server_context
from cluster.protocol.errors import OutcomeUnknown
from cluster.protocol.identity import Kind
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import SystemClock, SystemEntropy
from tests.support.authority import ClusterAuthority
from tests.unit.cli.canned import Asked, Canned, tls_manager
from tests.unit.cli.conftest import Run, context_for, reply_to

CREATED = (201, {"id": "x", "name": "db", "version": 1})
LOCKED = (503, {"code": "locked", "message": "the manager is locked", "retryable": True})
NO_SECRETS: tuple[int, object] = (200, {"secrets": []})
LIFE, NEXT_LIFE = "a" * 26, "b" * 26
OLD, NEW = f"100.{LIFE}.7", f"100.{LIFE}.9"


@pytest.fixture
def dead_endpoint() -> Iterator[str]:
    """An address that refuses connections for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_dead_manager_is_passed_over(
    run: Run, files: ContextFiles, authority: ClusterAuthority, manager: Canned, dead_endpoint: str
) -> None:
    files.save(context_for(authority, (dead_endpoint, manager.endpoint)))
    manager.on("GET /v1/secrets", NO_SECRETS)
    assert run("secret", "ls").code == 0


def test_a_locked_manager_is_passed_over(
    run: Run,
    files: ContextFiles,
    authority: ClusterAuthority,
    manager: Canned,
    second_manager: Canned,
) -> None:
    files.save(context_for(authority, (manager.endpoint, second_manager.endpoint)))
    manager.on("POST /v1/secrets", LOCKED)
    second_manager.on("POST /v1/secrets", CREATED)
    assert run("secret", "create", "db", stdin=b"v").code == 0
    assert (
        manager.only().headers["strongroom-request-id"]
        == (second_manager.only().headers["strongroom-request-id"])
    )


def test_a_lost_answer_is_asked_for_again_under_the_same_id(
    run: Run,
    files: ContextFiles,
    authority: ClusterAuthority,
    manager: Canned,
    second_manager: Canned,
) -> None:
    files.save(context_for(authority, (manager.endpoint, second_manager.endpoint)))
    manager.on("POST /v1/secrets", (0, None))
    second_manager.on("POST /v1/secrets", CREATED)
    assert run("secret", "create", "db", stdin=b"v").out == "secret db created, version 1\n"
    first, second = manager.only(), second_manager.only()
    assert first.headers["strongroom-request-id"] == second.headers["strongroom-request-id"]
    assert first.body == second.body == b"v"


def test_each_write_has_its_own_id(run: Run, manager: Canned, context: Context) -> None:
    manager.on("POST /v1/secrets", CREATED)
    for _ in range(2):
        run("secret", "create", "db", stdin=b"v")
    first, second = (asked.headers["strongroom-request-id"] for asked in manager.asked)
    assert first != second


def test_nobody_answering_exits_5(
    run: Run, files: ContextFiles, authority: ClusterAuthority, dead_endpoint: str
) -> None:
    files.save(context_for(authority, (dead_endpoint,)))
    done = run("secret", "ls")
    assert (done.code, done.out) == (5, "")
    assert done.err.startswith(f"strongroom: error: no manager answers ({dead_endpoint}: ")


def test_all_locked_exits_5(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", LOCKED)
    done = run("secret", "ls")
    assert done.code == 5
    assert done.err.startswith("strongroom: error: the manager is locked (request ")
    assert len(manager.asked) > 1


def test_the_newest_revision_seen_is_sent_back(
    run: Run, manager: Canned, context: Context, files: ContextFiles
) -> None:
    manager.on("GET /v1/secrets", NO_SECRETS)
    manager.revision = NEW
    run("secret", "ls")
    manager.revision = OLD
    run("secret", "ls")
    run("secret", "ls")
    sent = [asked.headers.get("strongroom-revision") for asked in manager.asked]
    assert sent == [None, NEW, NEW]
    assert files.seen("lab").revision == NEW


def test_a_newer_life_of_the_store_beats_a_higher_number(
    run: Run, manager: Canned, context: Context, files: ContextFiles
) -> None:
    manager.on("GET /v1/secrets", NO_SECRETS)
    for revision in (f"100.{LIFE}.900", f"101.{NEXT_LIFE}.1", "not a revision"):
        manager.revision = revision
        run("secret", "ls")
    assert files.seen("lab").revision == f"101.{NEXT_LIFE}.1"


def test_status_teaches_the_other_managers(
    run: Run, manager: Canned, context: Context, files: ContextFiles
) -> None:
    managers = [
        {"name": "m1", "state": "ready", "leader": True, "api_address": manager.endpoint},
        {"name": "m2", "state": "ready", "leader": False, "api_address": "127.0.0.1:9"},
        {"name": "m3", "state": "joining", "leader": False, "api_address": "127.0.0.1:8"},
    ]
    manager.on("GET /v1/status", (200, {"managers": managers, "findings": []}))
    assert run("status").code == 0
    assert files.seen("lab").endpoints == (manager.endpoint, "127.0.0.1:9")


def test_refused_permission_exits_3(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", (403, {"code": "permission_denied", "message": "not permitted"}))
    done = run("secret", "ls")
    sent = manager.asked[-1].headers["strongroom-request-id"]
    assert done.code == 3
    assert done.err == f"strongroom: error: not permitted (request {sent})\n"


@pytest.mark.threat("T-08")
@pytest.mark.parametrize("kind", [Kind.NODE, Kind.OPERATOR, Kind.SERVICE])
def test_a_node_that_serves_gets_no_value(
    run: Run, files: ContextFiles, authority: ClusterAuthority, kind: Kind
) -> None:
    impostor = authority.issue(kind, "mallory")
    context = server_context(impostor.chain_pem, impostor.key_pem, authority.control_der)
    with tls_manager(context) as canned:
        canned.on("POST /v1/secrets", CREATED)
        files.save(context_for(authority, (canned.endpoint,)))
        done = run("secret", "create", "db", stdin=b"v")
    assert done.code in {3, 5}
    assert canned.asked == []


def test_a_foreign_cluster_gets_no_value(
    run: Run, files: ContextFiles, authority: ClusterAuthority
) -> None:
    foreign = ClusterAuthority()
    served = foreign.issue(Kind.MANAGER, "m1")
    with tls_manager(server_context(served.chain_pem, served.key_pem, None)) as canned:
        canned.on("POST /v1/secrets", CREATED)
        files.save(context_for(authority, (canned.endpoint,)))
        done = run("secret", "create", "db", stdin=b"v")
    assert (done.code, canned.asked) == (5, [])


def test_an_expired_certificate_says_the_way_back(
    run: Run, files: ContextFiles, authority: ClusterAuthority, manager: Canned
) -> None:
    files.save(context_for(authority, (manager.endpoint,), ends_in_s=-1))
    done = run("secret", "ls")
    assert (done.code, manager.asked) == (3, [])
    assert "`strongroom operator renew alice`" in done.err


def test_a_due_certificate_is_renewed_on_use(
    run: Run, files: ContextFiles, authority: ClusterAuthority, manager: Canned
) -> None:
    before = context_for(authority, (manager.endpoint,), renew_in_s=-1)
    files.save(before)

    def renewed(asked: Asked) -> tuple[int, object]:
        return 200, reply_to(authority, asked.json["csr"], manager.endpoint)

    manager.on("POST /v1/renew", renewed)
    manager.on("GET /v1/secrets", NO_SECRETS)
    done = run("secret", "ls")
    assert (done.code, done.err) == (0, "")
    after = files.load("lab")
    assert after.chain_pem != before.chain_pem
    assert after.key_pem != before.key_pem
    assert after.renew_at > authority.clock.now().timestamp()
    run("secret", "ls")
    assert [asked.path for asked in manager.asked].count("/v1/renew") == 1


@pytest.mark.parametrize(
    "answer",
    [
        (503, {"code": "no_quorum", "message": "no majority"}),
        (0, None),
        (200, {"trust_domain": "lab.test"}),
    ],
)
def test_a_renewal_that_fails_is_a_warning_and_asked_once(
    run: Run,
    files: ContextFiles,
    authority: ClusterAuthority,
    manager: Canned,
    answer: tuple[int, object],
) -> None:
    before = context_for(authority, (manager.endpoint,), renew_in_s=-1)
    files.save(before)
    manager.on("POST /v1/renew", answer)
    manager.on("GET /v1/secrets", NO_SECRETS)
    done = run("secret", "ls")
    assert done.code == 0
    assert "is not renewed" in done.err
    assert [asked.path for asked in manager.asked] == ["/v1/renew", "/v1/secrets?limit=1000"]
    assert files.load("lab").chain_pem == before.chain_pem


def test_a_certificate_for_another_key_is_not_kept(
    run: Run, files: ContextFiles, authority: ClusterAuthority, manager: Canned
) -> None:
    from base64 import b64encode

    from cluster.pki.csr import make_csr, new_key

    files.save(context_for(authority, (manager.endpoint,), renew_in_s=-1))
    other = b64encode(make_csr(new_key())).decode()
    manager.on("POST /v1/renew", (200, reply_to(authority, other, manager.endpoint)))
    manager.on("GET /v1/secrets", NO_SECRETS)
    done = run("secret", "ls")
    assert "not for the key it was asked for" in done.err
    assert stat.S_IMODE(next(files._directory.glob("pending/*.pem")).stat().st_mode) == 0o600


def test_an_answer_that_is_no_json_is_one_line(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", (200, b"<html>canary</html>"))
    done = run("secret", "ls")
    assert (done.code, "canary" in done.err, done.err.count("\n")) == (1, False, 1)
    manager.on("GET /v1/secrets", (500, b"canary"))
    done = run("secret", "ls")
    assert (done.code, "canary" in done.err, done.err.count("\n")) == (1, False, 1)


@pytest.mark.threat("T-08")
def test_a_forged_server_of_ours_gets_no_value(
    run: Run, files: ContextFiles, authority: ClusterAuthority
) -> None:
    """Even with serverAuth, which no node has, a node's name does not pass for a manager's."""
    forged = authority.forge([f"spiffe://{authority.trust_domain}/node/n1"])
    with tls_manager(server_context(forged.chain_pem, forged.key_pem, None)) as canned:
        canned.on("POST /v1/secrets", CREATED)
        files.save(context_for(authority, (canned.endpoint,)))
        done = run("secret", "create", "db", stdin=b"v")
    assert (done.code, canned.asked) == (3, [])
    assert "not a manager" in done.err


class HastyClock(SystemClock):
    """Ten seconds pass between any two looks."""

    def __init__(self) -> None:
        self._count_s = 0.0

    def monotonic_s(self) -> float:
        self._count_s += 10.0
        return self._count_s


def test_an_outcome_that_stays_unknown_is_said_to_be(
    files: ContextFiles, manager: Canned, context: Context
) -> None:
    """A refusal to answer after a lost answer does not make the write undone."""
    manager.on("POST /v1/secrets", (0, None), LOCKED)
    connection = Connection(files, context, HastyClock(), SystemEntropy())
    with pytest.raises(OutcomeUnknown, match="look at it before"):
        connection.write("POST", "/v1/secrets", value=SecretBytes(b"v"))
    assert len(manager.asked) > 1
    assert len({asked.headers["strongroom-request-id"] for asked in manager.asked}) == 1


def test_verbose_tells_the_id_of_every_request(run: Run, manager: Canned, context: Context) -> None:
    """The id of a write is the one that its resends carry, too."""
    manager.on("GET /v1/secrets", (200, {"secrets": []}))
    done = run("secret", "ls", "-v")
    sent = manager.only().headers["strongroom-request-id"]
    assert done.err == f"strongroom: GET /v1/secrets: request {sent}\n"
    assert run("secret", "ls").err == ""
