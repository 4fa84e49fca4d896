"""The files as the service sees them, and the mount they lie on."""

from docs.lab.capabilities import Means
from docs.lab.layout import MANAGERS, NODES, PYTHON
from docs.lab.stage import RED, SERVICES, Lab
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("secrets as files in memory", lab.capabilities.delivery)
        return
    for service in SERVICES:
        seen, stored = lab.digest_in_place(service), lab.digest_of(lab.value_file(service.secret))
        claim = f"{service.name} reads exactly what was stored"
        lab.narrator.observe(claim, seen=bool(seen) and seen == stored)
    _show_mount(lab)
    if lab.capabilities.isolation:
        lab.narrator.not_shown("files under uids of their own", lab.capabilities.isolation)
        return
    _show_file(lab)
    _show_socket(lab)


def _show_mount(lab: Lab) -> None:
    place = lab.secret_path(RED).rpartition("/")[0]
    done = lab.shell.run(*lab.exec_words(RED, "findmnt", "-o", "FSTYPE,OPTIONS", place))
    kind, _, options = done.stdout.splitlines()[-1].partition(" ")
    found = set(options.strip().split(","))
    lab.narrator.look_at("tmpfs: memory. noswap: its pages never reach a swap device.")
    lab.narrator.observe("the file system is", seen=kind, expected="tmpfs")
    wanted = {"nosuid", "nodev", "noexec"}
    if lab.capabilities.means is Means.KERNEL:
        # A service gets a read-only view; the agent's own one is somewhere else.
        wanted |= {"ro"}
    missing = ", ".join(sorted(wanted - found)) or "none"
    lab.narrator.observe("protecting mount options that are missing", seen=missing, expected="none")
    if "noswap" in found:
        lab.narrator.observe("the kernel keeps it out of swap", seen=True)
    else:
        lab.narrator.say(
            "No noswap here (Linux 6.4): accepted, and called weak, without swap only."
        )


def _show_file(lab: Lab) -> None:
    path = lab.secret_path(RED)
    lab.shell.run(*lab.exec_words(RED, "ls", "-la", "/run/secrets/"))
    words = lab.exec_words(RED, "stat", "-L", "-c", "%a %u %g", path)
    seen = lab.shell.run(*words).stdout.strip()
    lab.narrator.observe("mode, uid, gid", seen=seen, expected=f"440 {RED.uid} {RED.uid}")
    status = lab.shell.run(
        *lab.exec_words(RED, "grep", "-E", "^(Cap|NoNew|Uid)", "/proc/self/status")
    )
    lab.narrator.look_at(
        "no capability is left (all zeros), and none can be gained (NoNewPrivs 1)."
    )
    capable = [line for line in status.stdout.splitlines() if line.startswith("Cap")]
    none_left = bool(capable) and all(int(line.split()[1], 16) == 0 for line in capable)
    lab.narrator.observe("red runs without any capability", seen=none_left)


def _show_socket(lab: Lab) -> None:
    lab.narrator.say("The same over the service's own socket, for programs that want no file:")
    agent = [PYTHON, "-I", str(lab.layout.agent_program)]
    done = lab.shell.run(*lab.exec_words(RED, *agent, "ls"))
    listed = RED.secret in done.stdout and "blue" not in done.stdout
    lab.narrator.observe("red's socket lists red's secret and no other", seen=listed)


STEP = Step(
    "The files, as the service sees them",
    """A service sees a read-only tmpfs of its own at /run/secrets, complete from the first moment.
    The lab compares digests: it never prints a value.""",
    _run,
    (*MANAGERS, *NODES, "red"),
)
