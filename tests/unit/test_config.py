"""Configuration: a file, flags over it, and a refusal that names the setting."""

from pathlib import Path

import pytest

from cluster.config import Address, host_names, load
from cluster.protocol.errors import InvalidName, InvalidRequest

LEAST: dict[str, str | None] = {"name": "m1", "advertise": "10.0.0.1"}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("h", "h", 7),
        ("h.example:65535", "h.example", 65_535),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("[::1]", "::1", 7),
        ("[::1]:80", "::1", 80),
    ],
)
def test_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    found = Address.parse(text, 7)
    assert (found.host, found.port) == (host, port)
    assert Address.parse(str(found), 1) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", ":80", "h:", "h:0", "h:65536", "h:x", "h:" + "9" * 5_000, "h:1:2"),
        *("::1", "[::1", "[::1]x", "[::1]:", "a b", "h:1\n"),
    ],
)
def test_malformed_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Address.parse(text, 7)


def test_flags_lie_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "manager.toml"
    path.write_text('name = "file"\nadvertise = "file.example"\napi_listen = "127.0.0.1:1"\n')
    config = load(path, {"name": "flag", "advertise": None})
    assert (config.name, config.advertise) == ("flag", "file.example")
    assert config.api_address == "file.example:1"


def test_listeners_take_their_own_ports() -> None:
    config = load(None, LEAST | {"api_listen": "127.0.0.1", "join_listen": "127.0.0.1"})
    assert (config.api_address, config.join_address, config.peer_address) == (
        "10.0.0.1:7443",
        "10.0.0.1:7444",
        "10.0.0.1:7445",
    )


def test_paths_follow_from_the_directories() -> None:
    config = load(None, LEAST | {"data_dir": "/d", "run_dir": "/r"})
    assert config.seal_file == Path("/d/seal")
    assert config.engine_dir == Path("/d/engine")
    assert config.admin_socket == Path("/r/admin.sock")


@pytest.mark.parametrize(
    ("advertise", "address"),
    [("::1", "[::1]:7443"), ("[::1]", "[::1]:7443"), ("m.example", "m.example:7443")],
)
def test_advertised_host_takes_every_form_of_host(advertise: str, address: str) -> None:
    assert load(None, LEAST | {"advertise": advertise}).api_address == address


@pytest.mark.parametrize("advertise", ["10.0.0.1:7443", "[::1]:1", "a b", "", "https://m"])
def test_advertised_host_has_no_port(advertise: str) -> None:
    with pytest.raises(InvalidRequest, match="advertise"):
        load(None, LEAST | {"advertise": advertise})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"nmae": "x"}, "nmae"),
        ({"advertise": None}, "advertise"),
        ({"name": None, "advertise": None}, "advertise and name"),
        ({"log_format": "xml"}, "log_format"),
        ({"metrics_listen": "0.0.0.0:7446"}, "loopback"),
        ({"metrics_listen": "localhost:7446"}, "loopback"),
        ({"metrics_listen": "[::]:7446"}, "loopback"),
        ({"metrics_listen": "10.0.0.1"}, "loopback"),
        ({"audit_keep_days": "0"}, "audit_keep_days"),
        ({"audit_keep_days": "1.5"}, "audit_keep_days"),
        ({"hook_timeout_s": "0"}, "hook_timeout_s"),
        ({"hook_timeout_s": "601"}, "hook_timeout_s"),
        ({"hook_timeout_s": "1.5"}, "hook_timeout_s"),
        ({"hook_timeout_s": "\u0661"}, "hook_timeout_s"),
    ],
)
def test_refusal_names_the_setting(settings: dict[str, str | None], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        load(None, LEAST | settings)


def test_name_follows_the_rules_of_names() -> None:
    with pytest.raises(InvalidName):
        load(None, LEAST | {"name": "../m1"})


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"name = 1", "name takes a string"), (b"name", "not TOML"), (b"\xff", "not TOML")],
)
def test_unusable_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "manager.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=said):
        load(path, LEAST)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load(tmp_path / "none.toml", LEAST)


def test_certificates_tell_names_from_addresses() -> None:
    assert host_names("m.example") == (("m.example",), ())
    assert [str(one) for one in host_names("::1")[1]] == ["::1"]


def test_metrics_are_served_on_loopback_where_it_is_asked_for() -> None:
    assert load(None, LEAST).metrics_listen is None
    for text, address in (("127.0.0.1", "127.0.0.1:7446"), ("[::1]:9000", "[::1]:9000")):
        assert str(load(None, {**LEAST, "metrics_listen": text}).metrics_listen) == address


def test_exports_are_kept_for_ever_unless_days_are_said() -> None:
    assert load(None, LEAST).audit_keep_s is None
    assert load(None, {**LEAST, "audit_keep_days": "2"}).audit_keep_s == 172_800.0
