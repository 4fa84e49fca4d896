"""The routes on configs: what they take, what they answer, and that no secret comes by them."""

from base64 import b64decode, b64encode

import pytest
from fastapi.routing import APIRoute

from cluster.api import routes_configs
from tests.unit.api.lab import ApiLab

CANARY = b"\x00value-canary\xff"
CONTENT = b"listen 8080;\n\x00\xff"


async def created(lab: ApiLab, name: str = "plain") -> None:
    answer = await lab.ask("POST", f"/v1/configs?name={name}&label=team=red", CONTENT)
    assert (answer.status, set(answer.body)) == (201, {"id", "name", "revision"})


async def test_content_goes_in_and_comes_out(lab: ApiLab) -> None:
    await created(lab)
    answer = await lab.ask("GET", "/v1/configs/plain/content")
    assert b64decode(answer.body["data"]) == CONTENT
    assert answer.body["labels"] == {"team": "red"}
    listed = await lab.ask("GET", "/v1/configs?label=team=red&prefix=pl")
    shown = await lab.ask("GET", "/v1/configs/plain")
    assert listed.body == {"configs": [shown.body]}
    assert (await lab.ask("GET", "/v1/configs?label=team=blue")).body == {"configs": []}
    assert "data" not in shown.body


async def test_a_config_is_labelled_and_removed(lab: ApiLab) -> None:
    await created(lab)
    change = {"add": {"tier": "web"}, "remove": ["team"]}
    labelled = await lab.ask("PATCH", "/v1/configs/plain/labels", change)
    assert labelled.body["labels"] == {"tier": "web"}
    assert (await lab.ask("DELETE", "/v1/configs/plain")).status == 200
    gone = await lab.ask("GET", "/v1/configs/plain/content")
    assert (gone.status, gone.body["code"]) == (404, "config_not_found")


@pytest.mark.threat("T-53")
@pytest.mark.parametrize("name", ["db", "DB", "db%2F1", "..%2Fsecrets%2Fdb", "*"])
async def test_no_route_answers_with_a_secret(lab: ApiLab, name: str) -> None:
    """Every route there is, by every spelling; a route added later is among them.

    That the content would show is told by `test_content_goes_in_and_comes_out`.
    """
    await lab.ask("POST", "/v1/secrets?name=db", CANARY)
    await created(lab)
    for route in routes_configs.routes(lab.cases.edge, lab.cases.configs).routes:
        assert isinstance(route, APIRoute)
        for method in route.methods or ():
            if "{name}" in route.path:
                answer = await lab.ask(method, route.path.replace("{name}", name), {})
                assert answer.status in {400, 404}, (method, route.path)
            else:
                answer = await lab.ask(method, f"{route.path}?name=other&prefix=d", b"x")
            assert b"canary" not in answer.content
            assert b64encode(CANARY) not in answer.content
    assert (await lab.ask("GET", "/v1/secrets/db")).status == 200


@pytest.mark.threat("T-53")
async def test_auditor_reads_no_content(lab: ApiLab) -> None:
    await created(lab)
    assert (await lab.ask("GET", "/v1/configs/plain", as_="aud")).status == 200
    assert (await lab.ask("GET", "/v1/configs/plain/content", as_="aud")).status == 403


@pytest.mark.parametrize("noun", ["configs", "secrets"])
async def test_templates_are_refused(lab: ApiLab, noun: str) -> None:
    answer = await lab.ask("POST", f"/v1/{noun}?name=x&template_driver=golang", b"{{.Node.ID}}")
    assert answer.status == 400
    assert "templates are not supported" in answer.body["message"]
    assert (await lab.ask("GET", f"/v1/{noun}")).body == {noun: []}


async def test_a_resent_creation_is_done_once(lab: ApiLab) -> None:
    sent = {"strongroom-request-id": "a" * 26}
    first = await lab.ask("POST", "/v1/configs?name=plain", CONTENT, headers=sent)
    again = await lab.ask("POST", "/v1/configs?name=plain", CONTENT, headers=sent)
    assert (first.status, first.body) == (again.status, again.body)
    other = await lab.ask("POST", "/v1/configs?name=plain", b"other", headers=sent)
    assert (other.status, other.body["code"]) == (409, "request_id_reused")
