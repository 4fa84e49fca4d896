"""Hooks over HTTPS: both ends prove themselves, and the status is the whole answer."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.hook.contract import Credential, HookAction, HookCall
from cluster.hook.directory import HookDirectory
from cluster.hook.endpoint import post, read_endpoint
from cluster.protocol.errors import HookFailed
from cluster.protocol.ids import VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.hook_endpoint import Authority, Received, endpoint

CALL = HookCall(
    operation="op1",
    action=HookAction.CONFIRM,
    secret="db",
    new=Credential(VersionNumber(2), SecretBytes(b"canary")),
    previous=Credential(VersionNumber(1), SecretBytes(b"old")),
)


class Party:
    """A running endpoint and the hook directory that describes it."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory = directory
        self.authority = authority
        self.status = 204
        self.delay_s = 0.0
        self.url = ""
        self.received = Received()

    def answer(self) -> int:
        time.sleep(self.delay_s)
        return self.status

    def describe(self, **fields: str) -> HookDirectory:
        """Write the description and return the hooks."""
        chain, key = self.authority.issue(self.directory, "manager", server=False)
        content = {
            "url": f"{self.url}/rotate?of=db",
            "ca_file": "ca.crt",
            "certificate_file": chain.name,
            "key_file": str(key),
            **fields,
        }
        lines = [f'{name} = "{text}"' for name, text in content.items() if text]
        (self.directory / "party.toml").write_text("\n".join(lines))
        return HookDirectory(self.directory, timeout_s=5.0)


@pytest.fixture
def party(tmp_path: Path) -> Iterator[Party]:
    directory = tmp_path / "hooks"
    directory.mkdir()
    party = Party(directory, Authority())
    with endpoint(directory, party.authority, party.answer) as (url, received):
        party.url, party.received = url, received
        yield party


async def why(hooks: HookDirectory) -> str:
    with pytest.raises(HookFailed) as failed:
        await hooks.call("party", CALL)
    return failed.value.message


async def test_call_is_posted_with_a_client_certificate(party: Party) -> None:
    hooks = party.describe()
    assert ("party", "https", "") in hooks.listed()
    await hooks.call("party", CALL)
    await hooks.call("party", CALL)
    assert party.received.bodies == [CALL.encode()] * 2
    assert party.received.keys == ["op1/confirm"] * 2
    assert party.received.paths == ["/rotate?of=db"] * 2
    assert "manager" in party.received.subjects[0]


@pytest.mark.parametrize("status", [199 + 101, 301, 401, 409, 500])
async def test_status_outside_2xx_is_no(party: Party, status: int) -> None:
    party.status = status
    assert await why(party.describe()) == f"the hook answered with status {status}"


async def test_endpoint_that_hangs_is_left(party: Party) -> None:
    party.delay_s = 1.5
    party.describe()
    hooks = HookDirectory(party.directory, timeout_s=0.5)
    assert await why(hooks) == "the hook did not answer within 0.5 s"


async def test_endpoint_that_is_not_there(party: Party) -> None:
    assert "not reached" in await why(party.describe(url="https://127.0.0.1:1/"))


@pytest.mark.threat("T-38")
async def test_value_goes_to_nobody_but_the_endpoint_that_is_named(party: Party) -> None:
    """Another authority's server, or a host of another name: no request is sent at all."""
    stranger = party.directory / "stranger"
    stranger.mkdir()
    Authority("stranger").write(stranger)
    assert "does not verify" in await why(party.describe(ca_file="stranger/ca.crt"))
    other_name = party.url.replace("127.0.0.1", "localhost")
    assert "does not verify" in await why(party.describe(url=other_name))
    assert party.received.bodies == []
    await party.describe().call("party", CALL)
    assert len(party.received.bodies) == 1


@pytest.mark.control("T-38", without="cluster/hook/endpoint.py::read_endpoint")
async def test_stranger_gets_the_value_where_his_certificate_is_not_looked_at(
    party: Party,
) -> None:
    stranger = party.directory / "stranger"
    stranger.mkdir()
    Authority("stranger").write(stranger)
    assert "does not verify" in await why(party.describe(ca_file="stranger/ca.crt"))
    assert party.received.bodies == []
    named = read_endpoint(party.directory / "party.toml")
    named.context.check_hostname = False
    named.context.verify_mode = ssl.CERT_NONE
    await post(named, CALL, 30.0)
    assert len(party.received.bodies) == 1


async def test_endpoint_refuses_a_certificate_it_does_not_know(party: Party) -> None:
    chain, key = Authority("other").issue(party.directory, "intruder", server=False)
    hooks = party.describe(certificate_file=chain.name, key_file=key.name)
    assert await why(hooks)
    assert party.received.bodies == []


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://127.0.0.1/"},
        {"url": "https://user:password@127.0.0.1/"},
        {"url": "https:///path"},
        {"url": "https://127.0.0.1:99999/"},
        {"url": ""},
        {"ca_file": "missing.crt"},
        {"ca_file": "party.toml"},
        {"key_file": "manager.crt"},
        {"certificate_file": "ca.crt"},
        {"surplus": "field"},
    ],
)
async def test_bad_description_is_told_before_anything_is_sent(
    party: Party, fields: dict[str, str]
) -> None:
    hooks = party.describe(**fields)
    with pytest.raises(HookFailed):
        hooks.check("party")
    assert await why(hooks)
    assert party.received.bodies == []


async def test_key_that_others_can_read_is_not_used(party: Party) -> None:
    hooks = party.describe()
    hooks.check("party")
    (party.directory / "manager.key").chmod(0o644)
    with pytest.raises(HookFailed, match="chmod 0600"):
        hooks.check("party")


async def test_description_that_is_not_toml(party: Party) -> None:
    hooks = party.describe()
    (party.directory / "party.toml").write_bytes(b"\xff=")
    with pytest.raises(HookFailed, match="not TOML"):
        hooks.check("party")
