"""The edge: revisions that carry over, request ids that bind, bodies that end."""

import asyncio

import pytest

from cluster.protocol.identity import Kind
from cluster.protocol.ids import format_id
from tests.support.stores import StoreLab
from tests.unit.api.lab import BODY_LIMIT, ApiLab, ask, caller_of


def request_id(lab: ApiLab) -> str:
    return format_id(lab.control.entropy.token(16))


# --- revisions ----------------------------------------------------------------------------------


async def test_answer_says_as_of_when(lab: ApiLab) -> None:
    created = await lab.ask("POST", "/v1/secrets?name=db", b"value")
    assert created.revision == str(lab.store.revision(lab.store.view.revision))
    assert created.body["revision"] == created.revision


async def test_reader_that_saw_a_write_finds_it_on_another_manager(
    lab: ApiLab, stores: StoreLab
) -> None:
    other = ApiLab(stores, await stores.open("m2", "b2"))
    for number in range(5):
        name = f"secret-{number}"
        written = await lab.ask("POST", f"/v1/secrets?name={name}", b"value")
        headers = {"strongroom-revision": written.revision}
        assert (await other.ask("GET", f"/v1/secrets/{name}", headers=headers)).status == 200


async def test_who_was_refused_reads_no_older_state_elsewhere(
    lab: ApiLab, stores: StoreLab
) -> None:
    """A refusal tells that the name is taken; whoever heard it finds the secret everywhere."""
    other = ApiLab(stores, await stores.open("m2", "b2"))
    for number in range(5):
        name = f"secret-{number}"
        await lab.ask("POST", f"/v1/secrets?name={name}", b"value")
        refused = await lab.ask("POST", f"/v1/secrets?name={name}", b"value")
        assert refused.status == 409
        headers = {"strongroom-revision": refused.revision}
        assert (await other.ask("GET", f"/v1/secrets/{name}", headers=headers)).status == 200


async def test_stranger_is_told_no_revision(lab: ApiLab) -> None:
    refused = await ask(lab.api, "GET", "/v1/secrets")
    assert refused.status == 403
    assert "strongroom-revision" not in refused.headers


async def test_revision_that_changed_nothing_of_ours_is_caught_up_with(
    lab: ApiLab, stores: StoreLab
) -> None:
    await stores.engine.campaign("some-duty", "m9", 5.0)
    seen = lab.store.revision(await stores.engine.barrier())
    assert lab.store.view.revision < seen.number
    answer = await lab.ask("GET", "/v1/secrets", headers={"strongroom-revision": str(seen)})
    assert answer.status == 200


async def test_revision_that_was_never_reached_is_refused_at_once(lab: ApiLab) -> None:
    """It would hold a place among the running requests for as long as one waited for it."""
    seen = str(lab.store.revision(lab.store.view.revision + 1_000))
    async with asyncio.timeout(5):
        answer = await lab.ask("GET", "/v1/secrets", headers={"strongroom-revision": seen})
    assert (answer.status, answer.body["code"], answer.body["retryable"]) == (
        503,
        "unavailable",
        True,
    )


@pytest.mark.parametrize(
    ("counter", "status"), [(0, 200), (2, 503)], ids=["older life", "later life"]
)
async def test_revision_of_another_life(lab: ApiLab, counter: int, status: int) -> None:
    headers = {"strongroom-revision": f"{counter}.other.999999"}
    assert (await lab.ask("GET", "/v1/secrets", headers=headers)).status == status


@pytest.mark.parametrize("text", ["", "1", "1.x", "1.first.-1", "1.first.2.3", "9" * 400])
async def test_malformed_revision_is_refused(lab: ApiLab, text: str) -> None:
    answer = await lab.ask("GET", "/v1/secrets", headers={"strongroom-revision": text})
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")


# --- request ids --------------------------------------------------------------------------------


async def test_resent_write_gets_its_first_answer(lab: ApiLab) -> None:
    headers = {"strongroom-request-id": request_id(lab)}
    first = await lab.ask("POST", "/v1/secrets?name=db", b"value", headers=headers)
    again = await lab.ask("POST", "/v1/secrets?name=db", b"value", headers=headers)
    assert (first.status, again.status) == (201, 201)
    assert first.body["id"] == again.body["id"]


async def test_write_without_a_request_id_is_a_new_one_each_time(lab: ApiLab) -> None:
    first = await lab.ask("POST", "/v1/secrets?name=db", b"value")
    again = await lab.ask("POST", "/v1/secrets?name=db", b"value")
    assert (first.status, again.status) == (201, 409)


@pytest.mark.parametrize(
    ("target", "body"),
    [("/v1/secrets?name=db", b"other"), ("/v1/secrets?name=db&label=a%3Db", b"value")],
    ids=["another body", "another query"],
)
async def test_request_id_binds_what_was_asked(lab: ApiLab, target: str, body: bytes) -> None:
    headers = {"strongroom-request-id": request_id(lab)}
    await lab.ask("POST", "/v1/secrets?name=db", b"value", headers=headers)
    reused = await lab.ask("POST", target, body, headers=headers)
    assert (reused.status, reused.body["code"]) == (409, "request_id_reused")


@pytest.mark.parametrize("text", ["", "short", "A" * 26, "a" * 27, "1" * 26])
async def test_malformed_request_id_is_refused(lab: ApiLab, text: str) -> None:
    headers = {"strongroom-request-id": text}
    answer = await lab.ask("POST", "/v1/secrets?name=db", b"value", headers=headers)
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
    assert (await lab.ask("GET", "/v1/secrets")).body == {"secrets": []}


# --- bodies -------------------------------------------------------------------------------------


async def test_body_that_grows_past_its_limit_ends_the_connection(lab: ApiLab) -> None:
    pieces = [b"x" * 1_024] * 6
    answer = await ask(
        lab.api, "POST", "/v1/secrets?name=db", pieces, caller=caller_of(Kind.OPERATOR, "ada")
    )
    assert (answer.status, answer.body["code"]) == (413, "payload_too_large")
    assert answer.headers["connection"] == "close"


async def test_declared_body_is_refused_in_the_same_words(lab: ApiLab) -> None:
    answer = await lab.ask("POST", "/v1/secrets?name=db", b"x" * (BODY_LIMIT + 1))
    assert (answer.status, answer.body["code"], answer.body["retryable"]) == (
        413,
        "payload_too_large",
        False,
    )
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["connection"] == "close"


async def test_body_in_pieces_within_the_limit_is_whole(lab: ApiLab) -> None:
    answer = await ask(
        lab.api,
        "POST",
        "/v1/secrets?name=db",
        [b"ab", b"", b"cd"],
        caller=caller_of(Kind.OPERATOR, "ada"),
    )
    assert answer.status == 201
    assert "connection" not in answer.headers


@pytest.mark.parametrize("label", ["a", "=b", "a%3Db&label=a%3Dc"])
async def test_malformed_label_is_refused(lab: ApiLab, label: str) -> None:
    answer = await lab.ask("POST", f"/v1/secrets?name=db&label={label}", b"value")
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
