"""What a container may do, asked of the engine and of the kernel; what is in its image."""

import json
from pathlib import Path
from typing import Any

import pytest

from docs.lab.compose.containers import SERVICES
from docs.lab.compose.driver import ContainerLab

RUNNING = tuple(name for name in SERVICES if name != "bootstrap")
IN_MEMORY = ("-run", "unlock", "-join", "-secrets", "-socket")
"""How the names of the volumes in memory end."""
SERVER_CODE = ("cluster.api", "cluster.control", "cluster.store", "cluster.seal", "cluster.cli")
SERVER_PACKAGES = ("fastapi", "uvicorn", "grpc", "pydantic")


@pytest.mark.parametrize("name", SERVICES)
def test_engine_gives_no_rights(lab: ContainerLab, name: str) -> None:
    found = lab.engine.inspect(name)
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert found["Config"]["User"].split(":")[0] not in {"", "0", "root"}


@pytest.mark.parametrize("name", RUNNING)
def test_kernel_knows_of_no_rights(lab: ContainerLab, name: str) -> None:
    text = Path(f"/proc/{lab.engine.pid(name)}/status").read_text()
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    capabilities = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(status[one], 16) for one in capabilities} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "the engine's filter of system calls is not in force"
    assert "0" not in status["Uid"].split() + status["Gid"].split()


@pytest.mark.parametrize("name", SERVICES)
def test_no_image_puts_files_into_memory(lab: ContainerLab, name: str) -> None:
    """Without nocopy an image's directory is copied into a volume that is empty when it starts."""
    volumes = _volumes_in_memory(lab, name)
    assert volumes or name in {"operator", "third-party"}
    copied = [one["Source"] for one in volumes if not one["VolumeOptions"].get("NoCopy")]
    assert copied == []


def _volumes_in_memory(lab: ContainerLab, name: str) -> list[dict[str, Any]]:
    mounts = lab.engine.inspect(name)["HostConfig"].get("Mounts") or []
    return [one for one in mounts if one["Source"].endswith(IN_MEMORY)]


def test_volumes_in_memory_are_limited_and_closed(lab: ContainerLab) -> None:
    names = lab.engine.run("docker", "volume", "ls", "--quiet").split()
    in_memory = [name for name in names if name.endswith(IN_MEMORY)]
    assert len(in_memory) == 12
    for volume in json.loads(lab.engine.run("docker", "volume", "inspect", *in_memory)):
        options = volume["Options"]["o"].split(",")
        assert volume["Options"]["type"] == "tmpfs"
        assert {"nosuid", "nodev", "noexec", "noswap"} <= set(options)
        assert any(option.startswith("size=") for option in options)
        assert any(option.startswith("mode=") for option in options)


def test_services_have_no_way_to_the_managers(lab: ContainerLab) -> None:
    for name in ("red", "blue"):
        assert lab.engine.inspect(name)["HostConfig"]["NetworkMode"] == "none"
    for name in ("twitter", "third-party"):
        networks = lab.engine.inspect(name)["NetworkSettings"]["Networks"]
        assert set(networks) == {"strongroom_outside"}


@pytest.mark.parametrize("module", [*SERVER_CODE, *SERVER_PACKAGES])
def test_agent_image_holds_no_server_code(lab: ContainerLab, module: str) -> None:
    assert not _imports(lab, "node1", module)
    # The same question to an image that holds it.
    assert _imports(lab, "operator", module)


def _imports(lab: ContainerLab, name: str, module: str) -> bool:
    words = ("docker", "exec", lab.engine.container(name), "python3", "-c", f"import {module}")
    return "ModuleNotFoundError" not in lab.engine.run(*words, check=False)


def test_manager_and_agent_share_their_layers(lab: ContainerLab) -> None:
    words = ("docker", "image", "inspect", "strongroom-agent", "strongroom-manager")
    agent, manager = (one["RootFS"]["Layers"] for one in json.loads(lab.engine.run(*words)))
    shared = [a for a, b in zip(agent, manager, strict=False) if a == b]
    # The base, and what both import from others.
    assert len(shared) == 2
