"""`strongroom audit`, as transcripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import audit
from cluster.cli.context_files import Context
from cluster.pki.audit_statement import AuditStatement, StatedHead, sign
from cluster.protocol.identity import Kind
from tests.support.authority import TRUST_DOMAIN, ClusterAuthority
from tests.unit.cli.canned import Asked, Canned, Reply
from tests.unit.cli.conftest import Run

REQUEST_ID = "r" * 26
ENTRY: dict[str, Any] = {
    "position": 7,
    "at": "2026-01-01T00:00:00.000Z",
    "caller": "spiffe://lab.example/operator/alice",
    "action": "secret.rotate",
    "resource": "secret/db",
    "allowed": True,
    "count": 1,
    "detail": "",
    "request_id": REQUEST_ID,
    "chain": "audit/m/b/0",
    "link": 3,
}
REFUSED = {**ENTRY, "position": 9, "allowed": False, "count": 3, "request_id": "", "detail": "x"}
LINE = (
    f"2026-01-01T00:00:00.000Z  allowed  operator/alice  secret.rotate  secret/db  [{REQUEST_ID}]"
)
REFUSED_LINE = (
    "2026-01-01T00:00:00.000Z  REFUSED  operator/alice  secret.rotate  secret/db  x3  (x)"
)
VERDICT: dict[str, Any] = {
    "whole": True,
    "revision": 40,
    "links": 12,
    "records": 9,
    "chains": [{"chain": "audit/m/b/0", "last_link": 12, "digest": "00"}],
    "checkpoint": None,
    "wrong": [],
}


def page(*entries: dict[str, Any], cursor: int | None = None) -> Reply:
    return 200, {"entries": list(entries), "next": cursor, "up_to": 10}


def test_query_goes_on_until_the_end(run: Run, manager: Canned, context: Context) -> None:
    """A page may be empty and not the last."""
    manager.on("GET /v1/audit", page(ENTRY, cursor=7), page(cursor=8), page(REFUSED))
    done = run("audit", "query", "--action", "secret", "--caller", "operator/alice", "--refused")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [LINE, REFUSED_LINE]
    asked = "/v1/audit?caller=operator%2Falice&action=secret&refused=true"
    assert [a.path for a in manager.asked] == [asked, f"{asked}&cursor=7", f"{asked}&cursor=8"]


def test_query_prints_lines_of_json(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/audit", page(ENTRY, REFUSED))
    done = run("audit", "query", "--format", "json")
    assert [json.loads(line) for line in done.out.splitlines()] == [ENTRY, REFUSED]
    assert run("audit", "query", "--limit", "1").out.splitlines() == [LINE]


def test_query_takes_moments_and_spans(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/audit", page())
    assert run("audit", "query", "--since", "1h", "--until", "2026-01-31T12:00Z").code == 0
    assert "until=2026-01-31T12%3A00%3A00%2B00%3A00" in manager.only().path
    assert run("audit", "query", "--since", "yesterday").code == 2


def test_tail_shows_the_newest_last(run: Run, manager: Canned, context: Context) -> None:
    manager.on("GET /v1/audit", page(REFUSED, cursor=9), page(ENTRY))
    done = run("audit", "tail", "-n", "2")
    assert done.out.splitlines() == [LINE, REFUSED_LINE]
    assert manager.asked[0].path == "/v1/audit?order=newest&limit=2"


def test_tail_follows_from_where_it_stopped(
    run: Run, manager: Canned, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "FOLLOW_S", 0.0)

    def ended(asked: Asked) -> Reply:
        return 403, {"code": "permission_denied", "message": "over", "retryable": False}

    manager.on("GET /v1/audit", page(ENTRY), page(REFUSED), ended)
    done = run("audit", "tail", "-f")
    assert done.out.splitlines() == [LINE, REFUSED_LINE]
    assert manager.asked[1].path == "/v1/audit?cursor=10"
    assert done.code == 3


def test_verdict_is_printed_and_the_exit_code_says_it(
    run: Run, manager: Canned, context: Context
) -> None:
    broken = {**VERDICT, "whole": False, "wrong": [{"kind": "audit", "what": "a link is gone"}]}
    manager.on("GET /v1/audit/verification", (200, VERDICT), (200, broken))
    whole = run("audit", "verify")
    assert (whole.code, whole.err) == (0, "")
    assert "verdict      whole, at revision 40" in whole.out
    done = run("audit", "verify")
    assert done.code == 1
    assert "wrong        audit: a link is gone" in done.out
    assert "docs/how-to/integrity.md" in done.err


def test_export_writes_a_new_file_and_a_signed_checkpoint(
    run: Run, manager: Canned, context: Context, authority: ClusterAuthority, tmp_path: Path
) -> None:
    manager.on("GET /v1/audit", page(ENTRY, REFUSED))
    manager.on("GET /v1/audit/checkpoint", (200, signed(authority)))
    target = tmp_path / "audit.jsonl"
    assert run("audit", "export", str(target)).code == 0
    assert (tmp_path / "audit.jsonl.checkpoint").stat().st_mode & 0o777 == 0o600
    assert manager.asked[-1].path == "/v1/audit/checkpoint", "behind the last page"
    assert [json.loads(line) for line in target.read_text().splitlines()] == [ENTRY, REFUSED]
    assert target.stat().st_mode & 0o777 == 0o600
    again = run("audit", "export", str(target))
    assert again.code == 1
    assert "exists; name a new file" in again.err


def signed(authority: ClusterAuthority) -> dict[str, Any]:
    """Return what a manager of the context's cluster answers."""
    manager = authority.issue(Kind.MANAGER, "m1")
    statement = AuditStatement(
        cluster_id="c1", trust_domain=TRUST_DOMAIN, manager_id="m1",
        at=authority.clock.now().timestamp(), incarnation_counter=1, incarnation_unique="first",
        revision=7, checkpoint=0, chains=(StatedHead("audit/m1/b1/0", 3, "ab" * 32),),
    )  # fmt: skip
    file = sign(statement, manager.key_pem, manager.chain_pem, authority.root_der)
    return dict(json.loads(file))


def test_checkpoint_is_written_and_compared(
    run: Run, manager: Canned, context: Context, authority: ClusterAuthority, tmp_path: Path
) -> None:
    """It goes to a manager as it is, which is not told how far the store once was."""
    manager.on("GET /v1/audit/checkpoint", (200, signed(authority)))
    found = {
        "compared": {
            "at": "2026-01-01T00:00:00.000Z", "manager_id": "m1", "chains": 1, "forgotten": ["x"]
        }
    }  # fmt: skip
    lost = {"whole": False, "wrong": [{"kind": "audit", "what": "links 2 to 3 are missing"}]}
    manager.on("POST /v1/audit/verification", (200, VERDICT | found), (200, VERDICT | found | lost))
    target = tmp_path / "kept"
    done = run("audit", "checkpoint", "--output", str(target))
    assert (done.code, done.out) == (0, "")
    words = ("audit", "verify", "--checkpoint", str(target))
    whole = run(*words)
    assert (whole.code, whole.err) == (0, "")
    assert "with 1 chains as manager m1 stated them" in whole.out
    assert "1 ended and were trimmed since" in whole.out
    asked = manager.asked[-1]
    assert asked.body == target.read_bytes()
    assert asked.headers["strongroom-revision"].startswith("0.")
    done = run(*words)
    assert done.code == 1
    assert "wrong        audit: links 2 to 3 are missing" in done.out


def test_checkpoint_is_checked_without_a_manager(
    run: Run, manager: Canned, context: Context, authority: ClusterAuthority, tmp_path: Path
) -> None:
    target = tmp_path / "kept"
    target.write_text(json.dumps(signed(authority)))
    words = ("audit", "verify", "--offline", "--checkpoint", str(target))
    done = run(*words)
    assert (done.code, done.err) == (0, "")
    assert "signed by    manager m1" in done.out
    assert "chain        audit/m1/b1/0 up to link 3" in done.out
    assert json.loads(run(*words, "--format", "json").out)["cluster_id"] == "c1"
    target.write_text(json.dumps(signed(ClusterAuthority())))
    for offline in (words, ("audit", "verify", "--checkpoint", str(target))):
        done = run(*offline)
        assert (done.code, "not of this cluster" in done.err) == (3, True)
    assert manager.asked == []
    assert run("audit", "verify", "--offline").code == 1


def test_checkpoint_that_no_manager_signed_is_not_written(
    run: Run, manager: Canned, context: Context, tmp_path: Path
) -> None:
    manager.on("GET /v1/audit/checkpoint", (200, signed(ClusterAuthority())))
    target = tmp_path / "kept"
    assert run("audit", "checkpoint", "--output", str(target)).code == 3
    assert not target.exists()


def test_export_that_fails_leaves_no_file(
    run: Run, manager: Canned, context: Context, tmp_path: Path
) -> None:
    refusal = (403, {"code": "permission_denied", "message": "no", "retryable": False})
    manager.on("GET /v1/audit", page(ENTRY, cursor=7), refusal)
    assert run("audit", "export", str(tmp_path / "audit.jsonl")).code == 3
    assert not (tmp_path / "audit.jsonl").exists()


ARCHIVES: dict[str, Any] = {
    "archives": [
        {"name": "1.links", "verdict": "whole", "number": 1, "links": 9, "follows": "", "why": ""},
        {"name": "2.links", "verdict": "broken", "number": None, "links": 0, "why": "cut off"},
    ],
    "whole": False,
}


def test_archives_name_what_is_broken_and_the_exit_code_says_it(run: Run, admin: Canned) -> None:
    whole = {"archives": ARCHIVES["archives"][:1], "whole": True}
    none: dict[str, Any] = {"archives": [], "whole": True}
    admin.on("GET /admin/audit/archives", (200, ARCHIVES), (200, whole), (200, none))
    done = run("audit", "archives", "--admin-socket", admin.endpoint)
    assert done.code == 1
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [
        ["1.links", "whole"],
        ["2.links", "broken"],
    ]
    assert "broken or missing; see docs/how-to/integrity.md" in done.err
    assert run("audit", "archives", "-q", "--admin-socket", admin.endpoint).out == "1.links\n"
    empty = run("audit", "archives", "--admin-socket", admin.endpoint)
    assert (empty.code, empty.err) == (0, "strongroom: this manager has exported nothing yet\n")


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        ({"done": True}, 0, "1 entries written"),
        ({"error": {"code": "audit_chain_broken", "message": "it was cut"}}, 1, "it was cut"),
        (None, 5, "the manager stopped before it was done"),
    ],
)
def test_archive_is_exported_whole_or_not_at_all(
    run: Run, admin: Canned, tmp_path: Path, last: object, code: int, said: str
) -> None:
    lines = [ENTRY] if last is None else [ENTRY, last]
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    admin.on("GET /admin/audit/archives/1.links", (200, content))
    target = tmp_path / "old.jsonl"
    words = ("audit", "export", str(target), "--archive", "1.links")
    done = run(*words, "--admin-socket", admin.endpoint)
    assert (done.code, said in done.err) == (code, True)
    assert target.exists() == (code == 0)


def test_archive_is_not_filtered(run: Run, admin: Canned, tmp_path: Path) -> None:
    words = ("audit", "export", str(tmp_path / "x"), "--archive", "1.links", "--action", "secret")
    done = run(*words, "--admin-socket", admin.endpoint)
    assert (done.code, "leave the filters out" in done.err) == (1, True)
    assert admin.asked == []
