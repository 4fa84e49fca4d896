"""The route of services' output."""

import pytest

from tests.unit.api.lab import ApiLab

NODE = "a" * 26


async def test_a_service_that_keeps_no_log_says_how_to_have_one(lab: ApiLab) -> None:
    await lab.control.service("web")
    answer = await lab.ask("GET", "/v1/services/web/logs")
    assert (answer.status, answer.body["code"]) == (409, "conflict")
    assert "service update web --logs" in answer.body["message"]


async def test_nodes_without_a_session_here_are_named(lab: ApiLab) -> None:
    await lab.control.join("n1")
    await lab.control.service("web", logs=True)
    await lab.control.settle(lab.control.duty())
    answer = await lab.ask("GET", f"/v1/services/web/logs?tail=5&after={NODE}:1.5&node=n1")
    assert answer.status == 200
    elsewhere = [{"node": "n1", "manager": "127.0.0.1:7443"}]
    assert (answer.body["lines"], answer.body["elsewhere"]) == ([], elsewhere)
    assert (await lab.ask("GET", "/v1/services/web/logs", as_="aud")).status == 403


@pytest.mark.parametrize(
    "query",
    [
        "tail=-1",
        "tail=1001",
        "tail=many",
        f"after={NODE}",
        f"after={NODE}:nan",
        f"after={NODE}:1e999",
        "after=n1:1.0",
        "&".join(["node=n1"] * 33),
    ],
)
async def test_what_cannot_be_meant_is_refused(lab: ApiLab, query: str) -> None:
    await lab.control.service("web", logs=True)
    answer = await lab.ask("GET", f"/v1/services/web/logs?{query}")
    assert answer.status in {400, 422}
