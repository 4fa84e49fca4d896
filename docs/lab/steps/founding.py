"""Three managers found a cluster, two agents join it."""

from docs.lab.layout import MANAGERS, NODES
from docs.lab.stage import Lab
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    _found(lab)
    _join_managers(lab)
    _show_managers(lab)
    if lab.capabilities.delivery:
        lab.narrator.not_shown("agents join and deliver", lab.capabilities.delivery)
        return
    for node in NODES:
        _join_agent(lab, node)
    _show_nodes(lab)


def _found(lab: Lab) -> None:
    lab.start_managers(*lab.managers)
    lab.narrator.say(
        """Each manager starts empty and listens on its admin socket only. The first founds the
        cluster: it makes the keys, and the unlock key goes to its owner, never beside the data."""
    )
    first = str(lab.layout.admin_socket(lab.managers[0]))
    options = ["--engine", "etcd", "--context", "lab", *lab.init_options]
    key_file = ["--unlock-key-file", str(lab.layout.unlock_key)]
    lab.shell.run("strongroom", "init", "--admin-socket", first, *options, *key_file)


def _join_managers(lab: Lab) -> None:
    spent = ""
    for name in lab.managers[1:]:
        token = str(lab.layout.private / f"{name}.token")
        lab.shell.run("strongroom", "token", "create", "--role", "manager", "--output", token)
        if spent and not lab.narrator.is_brief:
            refused = lab.shell.attempt(*_join_words(lab, name, spent))
            claim = "a manager token admits once: a second manager is refused"
            lab.narrator.observe(claim, seen=refused.code != 0)
        lab.shell.run(*_join_words(lab, name, token))
        spent = token


def _join_words(lab: Lab, name: str, token: str) -> list[str]:
    return [
        *("strongroom", "join", "--admin-socket", str(lab.layout.admin_socket(name))),
        *("--manager", lab.join_addresses(), "--token-file", token),
        *("--unlock-key-file", str(lab.layout.unlock_key)),
    ]


def _show_managers(lab: Lab) -> None:
    lab.shell.show("strongroom", "status")
    lab.narrator.look_at("every manager is ready, one of them the leader.")
    status = lab.status()
    ready = [one["name"] for one in status["managers"] if one["state"] == "ready"]
    leaders = [one["name"] for one in status["managers"] if one["leader"]]
    lab.narrator.observe("managers are ready", seen=sorted(ready), expected=list(lab.managers))
    lab.narrator.observe("leaders", seen=len(leaders), expected=1)


def _join_agent(lab: Lab, node: str) -> None:
    token = str(lab.layout.private / f"{node}.token")
    worker = ["--role", "worker", "--name", node, "--output", token]
    lab.shell.run("strongroom", "token", "create", *worker)
    data = ["--data-dir", str(lab.layout.node_data(node))]
    where = ["--manager", lab.join_addresses(), "--name", node, "--token-file", token]
    lab.shell.run("strongroom-agent", "join", *where, *data)
    lab.narrator.command(lab.agent_command(node), " &")
    lab.processes.start(node, lab.agent_command(node))
    lab.wait_until(f"{node} is ready", lambda: node in _ready_nodes(lab), node)
    side = "left" if node == NODES[0] else "right"
    lab.shell.run("strongroom", "node", "update", node, "--label-add", f"side={side}")


def _show_nodes(lab: Lab) -> None:
    lab.shell.show("strongroom", "node", "ls")
    lab.narrator.look_at("MEMORY: what the agent could prove of the tmpfs it will use.")
    lab.narrator.observe("nodes are ready", seen=_ready_nodes(lab), expected=list(NODES))


def _ready_nodes(lab: Lab) -> list[str]:
    nodes = lab.shell.ask("strongroom", "node", "ls")
    return sorted(node["name"] for node in nodes if node["state"] == "ready")


STEP = Step(
    "Found the cluster",
    """Three managers on this machine's loopback, each with its own etcd member beside it, and two
    agents. Tokens and keys go by files: a command line is there for everybody to read.""",
    _run,
    (*MANAGERS, *NODES),
)
