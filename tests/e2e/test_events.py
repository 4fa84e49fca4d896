"""Events, followed through the death of the manager that tells them."""

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import running_cluster, wait_until


@pytest.mark.parametrize("engine", ["sqlite", "etcd"])
def test_a_follower_misses_nothing_when_its_manager_dies(engine: str) -> None:
    """Killed after a change and started again, the manager goes on telling from the engine's own
    history: each event is shown once."""
    with running_cluster(agents=0, engine=engine) as cluster:
        (manager,) = cluster.managers
        shell = CommandLine(cluster.base / "shell")
        shell.ok("operator", "renew", "admin", "--admin-socket", str(manager.admin_socket))
        follower = shell.start("events", "--follow", "-q", "--filter", "type=secret")
        try:
            number = 0

            def heard() -> bool:
                nonlocal number
                number += 1
                cluster.create_secret(f"try-{number}", b"1")
                return "try-" in follower.text()

            wait_until(heard, "the follower follows")
            cluster.create_secret("before", b"1")
            manager.kill()
            manager.start()
            manager.unlock(cluster.unlock_key)
            cluster.create_secret("after", b"1")
            wait_until(lambda: "after" in follower.text(), "the follower goes on")
        finally:
            follower.kill()
        names = [line for line in follower.text().splitlines() if not line.startswith("strongroom")]
        tries = [name for name in names if name.startswith("try-")]
        assert names == [*tries, "before", "after"]
        assert tries == [f"try-{n}" for n in range(number - len(tries) + 1, number + 1)]
        everything = shell.ok("events", "-q", "--filter", "type=secret").split()
        assert everything[-2:] == ["before", "after"]
