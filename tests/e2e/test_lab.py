"""The guided lab as it ships: it shows what it says, notices a lie, and leaves nothing behind."""

import base64
import io
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from docs.lab.layout import HOST
from docs.lab.narrator import Narrator
from docs.lab.probes.disk_search import needles, search
from docs.lab.processes import identity_of
from docs.lab.scenarios.registry import SCENARIOS
from tests.support.lab_place import PATIENCE_S, REPOSITORY, Place, finished, lab_place

ALL_SHOWN, DIFFERS, UNUSABLE, NOT_SHOWN = 0, 1, 2, 3
NO_MOUNTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.fixture
def place() -> Iterator[Place]:
    with lab_place() as made:
        yield made


@pytest.mark.needs_root
def test_lab_shows_everything_and_leaves_nothing(place: Place) -> None:
    done = place.run()
    assert done.returncode == ALL_SHOWN, done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout
    assert "NOT SHOWN" not in done.stdout
    assert place.left_behind() == []


def changed_lab(directory: Path, file: str, before: str, after: str) -> Path:
    """Return a checkout in which one file of the lab says something else."""
    shutil.copytree(REPOSITORY / "docs" / "lab", directory / "docs" / "lab")
    (directory / ".tools").symlink_to(REPOSITORY / ".tools")
    changed = directory / "docs" / "lab" / file
    content = changed.read_text()
    assert before in content
    changed.write_text(content.replace(before, after))
    return directory


@pytest.mark.slow
@pytest.mark.needs_root
def test_lie_about_what_was_observed_fails_the_lab(place: Place) -> None:
    """A third party that only claims to revoke: its old credential still works."""
    lying = changed_lab(
        place.root, "apps/third_party_api.py", "self._revoked.add(number)", "del number"
    )
    done = place.run(repository=lying)
    assert done.returncode == DIFFERS, done.stdout + done.stderr
    assert "DIFFERS   the API refuses the old one" in done.stdout
    assert "DIFFERS   the API takes the new" not in done.stdout


@pytest.mark.needs_root
def test_failing_step_shows_the_logs_and_fails_the_lab(place: Place) -> None:
    """Managers with an engine that does not exist: told with what their log says."""
    broken = changed_lab(
        place.root, "stage.py", '*("--etcd", str(layout.etcd))', '*("--etcd", "/nonexistent")'
    )
    done = place.run(repository=broken)
    assert done.returncode == DIFFERS, done.stdout + done.stderr
    assert "DIFFERS   the step runs to its end" in done.stdout
    assert "    m1: {" in done.stdout
    assert place.left_behind() == []


@pytest.mark.slow
@pytest.mark.needs_root
def test_without_the_right_to_mount_isolation_reads_not_shown(place: Place) -> None:
    """Root in name alone: capabilities are probed, not the uid."""
    done = finished([*NO_MOUNTS, *place.command("--once")])
    assert done.returncode == NOT_SHOWN, done.stdout + done.stderr
    assert "NOT SHOWN red cannot read blue's on one node: no right to mount" in done.stdout
    assert "DIFFERS" not in done.stdout
    assert place.left_behind() == []


@pytest.mark.slow
@pytest.mark.needs_root
def test_lab_cleans_up_after_a_killed_one(place: Place) -> None:
    """What the killed one left is ended and unmounted; what only looks like it is not touched."""
    with subprocess.Popen(place.command("--once"), stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line.startswith("── 4"):
                killed.kill()
                break
    stranger = place.layout.process_files / "stranger.json"
    start = identity_of(os.getpid())
    stranger.write_text(f'{{"pid": {os.getpid()}, "identity": "{start}0"}}')
    assert len(place.left_behind()) > len(place.layout.ports) // 2
    done = place.run()
    assert done.returncode == ALL_SHOWN, done.stdout + done.stderr
    assert "left by an earlier lab: ended m1" in done.stdout
    assert "stranger" not in done.stdout
    assert place.left_behind() == []


def tutorial() -> list[tuple[str, str]]:
    """Return each command that the tutorial has its reader type, and what it says will appear."""
    text = (REPOSITORY / "docs" / "tutorial" / "first-secret.md").read_text()
    commands: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append((command, output))
    return commands


def follow_tutorial(place: Place, command: str) -> str:
    return finished(["sh", "-c", f". {place.layout.state}/env; {command}"]).stdout


def without_numbers(text: str) -> str:
    """Return the text without the times it took."""
    return re.sub(r"[0-9.]+ m?s\b", "TIME", text)


@pytest.mark.slow
@pytest.mark.needs_root
def test_guided_lab_waits_for_its_reader_and_stays_up(place: Place) -> None:
    """Enter advances; the tutorial holds true in a second terminal; Ctrl-C ends it cleanly."""
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        place.command(), stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    ) as lab:
        os.close(inside)
        seen = ""
        with os.fdopen(terminal, "rb+", buffering=0) as person:
            while "stays up until Ctrl-C" not in seen:
                seen += person.read(65_536).decode(errors="replace")
                if seen.endswith("Ctrl-C ends "):
                    person.write(b"\n")
                    seen += "(Enter)\n"
            told = [follow_tutorial(place, command) for command, _output in tutorial()]
            lab.send_signal(signal.SIGINT)
            assert lab.wait(PATIENCE_S) == ALL_SHOWN
    assert [without_numbers(text) for text in told] == [
        without_numbers(output) for _command, output in tutorial()
    ]
    assert seen.count("(Enter)") == 7
    assert place.left_behind() == []


def test_busy_port_is_named_with_its_owner(place: Place) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an earlier lab's TIME_WAIT
        taken.bind((HOST, place.layout.third_party_port))
        taken.listen()
        done = place.run()
    assert done.returncode == UNUSABLE
    assert f"port {place.layout.third_party_port} (the third party's API)" in done.stderr
    assert f"is taken by pid {os.getpid()} (" in done.stderr


def test_second_lab_in_the_same_place_is_refused(place: Place) -> None:
    place.layout.state.mkdir()
    lock = place.layout.lock
    with subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE) as other:
        assert other.stdin is not None
        while finished(["flock", "--nonblock", str(lock), "true"]).returncode == 0:
            pass
        done = place.run()
        other.stdin.close()
    assert done.returncode == UNUSABLE
    assert "a lab runs already" in done.stderr


def test_scenarios_are_listed_and_an_unknown_one_is_refused_with_the_list(place: Place) -> None:
    listed = finished(place.command("--list"))
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        scenario.name for scenario in SCENARIOS
    ]
    done = finished(place.command("--scenario", "nonsense"))
    assert done.returncode == UNUSABLE
    assert "there is no scenario 'nonsense'; there are tour, encryption," in done.stderr
    assert not place.layout.state.exists()


def test_shell_needs_a_lab_that_is_up_and_a_service_of_it(place: Place) -> None:
    down = finished(place.command("shell", "red"))
    stranger = finished(place.command("shell", "purple"))
    assert (down.returncode, stranger.returncode) == (UNUSABLE, UNUSABLE)
    assert "no lab is up; start one with `make lab`" in down.stderr
    assert (
        "there is no service 'purple' in the lab; there are red, blue, twitter" in stranger.stderr
    )


@pytest.mark.needs_root
def test_reset_ends_what_a_killed_lab_left_and_nothing_of_others(place: Place) -> None:
    with subprocess.Popen(place.command("--auto"), stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if "init --admin-socket" in line:
                refused = finished(place.command("reset"))
                killed.kill()
                break
    assert refused.returncode == UNUSABLE
    assert f"a lab runs already (pid {killed.pid})" in refused.stderr
    stranger = place.layout.state / "notes.txt"
    stranger.write_text("not the lab's")
    assert "ended m1" in finished(place.command("reset")).stdout
    assert place.left_behind() == []
    assert stranger.exists()
    stranger.unlink()
    assert finished(place.command("reset")).returncode == 0
    assert not place.layout.state.exists()


@pytest.mark.slow
@pytest.mark.needs_root
def test_bundle_runs_the_lab_without_a_network(place: Place) -> None:
    """Unpacked in a network namespace with nothing in it but loopback."""
    archive = place.root / "bundle.tar"
    packed = finished(place.command("bundle", "--output", str(archive)))
    assert packed.returncode == 0, packed.stderr
    subprocess.run(["tar", "-xf", archive, "-C", place.root], check=True)
    (copy,) = place.root.glob("strongroom-*")
    assert "Nothing is fetched" in (copy / "OFFLINE.md").read_text()
    where = f"--directory {place.layout.state} --runtime {place.layout.runtime}"
    lab = f'make lab ARGS="{where} --scenario hostile-app --auto"'
    without = "ip link set lo up && ! ip route get 192.0.2.1 2>&1 && cd"
    done = finished(["unshare", "--net", "sh", "-c", f"{without} {copy} && {lab}"])
    assert done.returncode == ALL_SHOWN, done.stdout + done.stderr
    assert "control: it does to an operator" in done.stdout
    assert place.left_behind() == []


@pytest.mark.parametrize("taken", ["state", "runtime"])
def test_directory_of_others_is_left_alone(place: Place, taken: str) -> None:
    """The lab empties its directories, so it takes none that holds anything else."""
    others = getattr(place.layout, taken) / "logs" / "others.log"
    others.parent.mkdir(parents=True)
    others.touch()
    done = place.run()
    assert done.returncode == UNUSABLE
    assert "holds files of others" in done.stderr
    assert others.exists()


@pytest.mark.parametrize(
    ("claims", "code"),
    [((1, 1), ALL_SHOWN), ((1, 2), DIFFERS), ((None, 1), NOT_SHOWN), ((None, 2), DIFFERS), ((), 1)],
)
def test_exit_code_tells_the_worst_that_was_observed(
    claims: Sequence[int | None], code: int
) -> None:
    out = io.StringIO()
    narrator = Narrator(out)
    for seen in claims:
        if seen is None:
            narrator.not_shown("a claim", "a reason")
        else:
            narrator.observe("a number", seen=seen, expected=1)
    assert narrator.exit_code == code
    assert ("expected 1, observed 2" in out.getvalue()) is (2 in claims)


@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"xyz"])
def test_disk_search_finds_a_value_in_every_form(tmp_path: Path, before: bytes) -> None:
    value, other = b"s3cret/value+that~is?long", b"another-value-that-is-long"
    source, absent = tmp_path / "value", tmp_path / "absent"
    stored = tmp_path / "stored"
    stored.mkdir()
    (stored / "plain").write_bytes(bytes(100) + before + value + b"\n")
    (stored / "hex").write_text((before + value).hex().upper())
    (stored / "base64").write_bytes(base64.b64encode(before + value + b"tail"))
    found, _total = search([stored], {source: value, absent: other})
    assert found == {(source, form): {stored / form} for form in needles(value)}
