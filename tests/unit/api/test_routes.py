"""The routes: what they take and what they answer; who may call them is tested elsewhere."""

import asyncio
import json

import pytest

from cluster.protocol.identity import Caller
from tests.support.issuing import IssueCaller
from tests.unit.api.lab import Answer, ApiLab, ask

VALUE = b"\x00value-canary\xff"


async def issue(
    lab: ApiLab, service: str, secret: str, caller: Caller, asking: IssueCaller | None = None
) -> Answer:
    await lab.control.settle(lab.control.duty())
    assert caller.identity is not None
    asking = asking or IssueCaller(caller.identity.subject)
    body = json.dumps(asking.body(service, secret)).encode()
    return await ask(lab.api, "POST", "/v1/issue", body, caller=caller)


async def test_nothing_is_issued_without_an_envelope_key(lab: ApiLab) -> None:
    await lab.control.secret("db", VALUE)
    await lab.control.service("red", "db")
    caller = await lab.node("one")
    await lab.control.settle(lab.control.duty())
    offers: tuple[dict[str, object], ...] = (
        {}, {"envelope_keys": []}, {"envelope_keys": [["x25519", "AAAA"]]},
    )  # fmt: skip
    for more in offers:
        body = json.dumps({"service": "red", "secret": "db", **more}).encode()
        answer = await ask(lab.api, "POST", "/v1/issue", body, caller=caller)
        assert (answer.status, answer.body["code"]) == (400, "invalid_request")


async def test_value_goes_in_and_never_comes_out(lab: ApiLab) -> None:
    answers = [
        await lab.ask("POST", "/v1/secrets?name=db&label=team%3Dred", VALUE),
        await lab.ask("GET", "/v1/secrets"),
        await lab.ask("GET", "/v1/secrets/db"),
        await lab.ask("POST", "/v1/secrets/db/versions", VALUE + b"2"),
        await lab.ask("PATCH", "/v1/secrets/db/labels", {"add": {"a": "b"}, "remove": ["team"]}),
        await lab.ask("DELETE", "/v1/secrets/db"),
    ]
    assert [answer.status for answer in answers] == [201, 200, 200, 200, 200, 200]
    assert not any(b"value-canary" in answer.content for answer in answers)


async def test_issued_value_is_sealed_to_the_callers_key_with_its_version(lab: ApiLab) -> None:
    await lab.control.secret("db", VALUE)
    await lab.control.service("red", "db")
    caller = await lab.node("one")
    assert caller.identity is not None
    asking = IssueCaller(caller.identity.subject)
    answer = await issue(lab, "red", "db", caller, asking)
    assert answer.status == 200
    assert b"value-canary" not in answer.content
    assert asking.opened(answer.content, answer.headers["strongroom-envelope"]) == VALUE
    assert answer.headers["strongroom-version"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_refused_issue_says_nothing_and_is_noted(lab: ApiLab) -> None:
    await lab.control.secret("db", VALUE)
    before = [
        await issue(lab, "red", "db", await lab.node("one")),
        await issue(lab, "red", "none", await lab.node("two")),
    ]
    assert {(answer.status, answer.body["message"]) for answer in before} == {
        (403, "not permitted")
    }


async def test_operator_is_issued_nothing(lab: ApiLab) -> None:
    answer = await lab.ask("POST", "/v1/issue", IssueCaller("ada").body("red", "db"))
    assert answer.status == 403


async def test_waiting_for_a_rollout_ends_with_it(lab: ApiLab) -> None:
    control = lab.control
    node_id = await control.join("one")
    await control.secret("db")
    created = await lab.ask(
        "POST", "/v1/services", {"name": "red", "uid": 1, "references": [{"source": "db"}]}
    )
    duty = control.duty()
    await control.settle(duty)
    rollout = created.body["rollout"]
    waiting = asyncio.create_task(lab.ask("GET", f"/v1/rollouts/{rollout}?wait=30"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await control.mounted("red", node_id, {"db": 1})
    await control.settle(duty)
    async with asyncio.timeout(20):
        assert (await waiting).body["done"] is True


async def test_wait_for_a_rollout_is_bounded(lab: ApiLab) -> None:
    created = await lab.ask("POST", "/v1/services", {"name": "red", "uid": 1, "references": []})
    rollout = created.body["rollout"]
    pending = await lab.ask("GET", f"/v1/rollouts/{rollout}?wait=0.05")
    assert (pending.status, pending.body["done"]) == (200, False)
    assert (await lab.ask("GET", f"/v1/rollouts/{rollout}?wait=31")).status == 400


async def test_nodes_tokens_and_operators_are_run(lab: ApiLab) -> None:
    await lab.control.join("one")
    token = await lab.ask("POST", "/v1/tokens", {"role": "worker", "ttl_s": 60})
    assert token.body["token"].startswith("SRTKN-1-")
    (listed,) = [t for t in (await lab.ask("GET", "/v1/tokens")).body["tokens"] if t["uses_left"]]
    assert token.body["token"].rpartition("-")[2] not in repr(listed)
    changed = await lab.ask("PATCH", "/v1/nodes/one", {"add_labels": {"zone": "a"}})
    assert changed.status == 200
    assert (await lab.ask("GET", "/v1/nodes/one")).body["labels"] == {"zone": "a"}
    added = await lab.ask("POST", "/v1/operators", {"name": "dan", "role": "auditor"})
    assert added.status == 201
    assert (await lab.ask("DELETE", "/v1/nodes/one")).status == 200
    assert (await lab.ask("DELETE", "/v1/operators/dan")).status == 200
    assert (await lab.ask("DELETE", f"/v1/tokens/{listed['id']}")).status == 200


# --- strangers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ready", "status"), [((True, ""), 200), ((False, "no quorum"), 503)])
async def test_readiness_is_a_status(lab: ApiLab, ready: tuple[bool, str], status: int) -> None:
    lab.ready = ready
    answer = await lab.stranger("GET", "/readyz")
    assert (answer.status, answer.body) == (status, {"ready": ready[0], "reason": ready[1]})
    assert (await lab.stranger("GET", "/healthz")).status == 200


async def test_trust_bundle_is_for_everyone(lab: ApiLab) -> None:
    answer = await lab.stranger("GET", "/v1/ca")
    assert set(answer.body) == {"format", "roots", "control", "workload"}


async def test_manager_is_not_admitted_on_sqlite(lab: ApiLab) -> None:
    fields = ("token", "csr", "hpke_key", "unlock_verifier", "name")
    addresses = ("api_address", "join_address", "peer_address")
    answer = await lab.stranger("POST", "/v1/join-manager", dict.fromkeys(fields + addresses, ""))
    assert (answer.status, answer.body["code"]) == (409, "wrong_engine")
