"""`strongroom doctor` beside a real manager: serving, locked, gone, its data open to all."""

import json

from tests.support.command_line import CommandLine
from tests.support.running import running_cluster


def test_doctor_tells_what_is_wrong_with_a_manager() -> None:
    with running_cluster(agents=0) as cluster:
        (manager,) = cluster.managers
        shell = CommandLine(cluster.base / "shell")
        data, run = manager.base / "data", manager.base / "run"

        def doctor(code: int) -> dict[str, tuple[str, str]]:
            words = ("doctor", "--data-dir", str(data), "--run-dir", str(run), "--format", "json")
            done = shell.run(*words)
            assert done.code == code, done
            found = json.loads(done.stdout)
            return {one["name"]: (one["strength"], one["detail"]) for one in found}

        healthy = doctor(0)
        assert healthy["manager"] == ("secure", "serving")
        assert healthy["data directory"][0] == "secure"
        assert healthy["manager m1 certificate"][0] == "secure"
        assert healthy["manager m1 clock"] == ("secure", "agrees with this manager's")
        assert "one manager tolerates no failure" in healthy["cluster"][1]
        assert healthy["engine"][1].startswith("sqlite ")
        data.chmod(0o755)
        assert doctor(1)["data directory"][0] == "insecure"
        data.chmod(0o700)
        manager.stop()
        assert "no manager answers" in doctor(0)["manager"][1]
        manager.start()
        assert "strongroom unlock" in doctor(0)["manager"][1]
