"""The reference of both configuration files, written from the dataclasses that hold them."""

import ast
import dataclasses
import inspect
from itertools import pairwise
from pathlib import Path

from agent.config import AgentConfig
from cluster.config import Config

_MANAGER_TEXTS = {
    "api_listen": "Where the API and agents' sessions are served.",
    "join_listen": "Where joining, returning and health are served, without certificates.",
    "peer_listen": "Where the etcd member listens to other managers' members.",
}
_AGENT_FLAGS = {"managers": "--manager", "size_bytes": "", "inodes": ""}
_AGENT_TEXTS = {
    "data_dir": "The node's identity; mode 0700.",
    "run_dir": "Sockets, and the kernel mounts in `secrets/`.",
    "mounts": "`kernel`: the agent mounts; `given`: it writes into volumes.",
    "inodes": "Of each kernel mount.",
}


def settings_page() -> str:
    """Return the reference of both files."""
    lines = [
        "# Configuration",
        "",
        "Written by `make docs` from `cluster/config.py` and `agent/config.py`; do not edit.",
        "",
        "Both programs take a TOML file by `--config` and flags that go before it. Unknown",
        "settings are refused. Neither reads the environment for its configuration.",
        "",
        "## Manager",
        "",
        "`strongroom manager run`; every value in the file is a string.",
        "",
        *_table(Config, {}, _MANAGER_TEXTS),
        "",
        "```toml",
        'name = "m1"',
        'advertise = "10.0.0.1"',
        'data_dir = "/var/lib/strongroom"',
        "```",
        "",
        "## Agent",
        "",
        "`strongroom-agent run`.",
        "",
        *_table(AgentConfig, _AGENT_FLAGS, _AGENT_TEXTS),
        "",
        "```toml",
        'mounts = "given"',
        'given_root = "/run/strongroom-volumes"',
        'managers = ["10.0.0.1:7443", "10.0.0.2:7443", "10.0.0.3:7443"]',
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(config: type, flags: dict[str, str], texts: dict[str, str]) -> list[str]:
    said = {**texts, **_docstrings(config)}
    rows = []
    for field in dataclasses.fields(config):
        flag = flags.get(field.name, "--" + field.name.replace("_", "-"))
        shown = f"`{flag}`" if flag else ""
        rows.append(f"| `{field.name}` | {shown} | {_default(field)} | {said[field.name]} |")
    return ["| setting | flag | default | meaning |", "|---|---|---|---|", *rows]


def _default(field: "dataclasses.Field[object]") -> str:
    match field.default:
        case dataclasses.MISSING:
            return "required"
        case None | ():
            return ""
        case default:
            return f"`{default}`"


def _docstrings(config: type) -> dict[str, str]:
    """Return the texts that stand under the fields, joined into one line each."""
    source = Path(inspect.getsourcefile(config) or "").read_text()
    (body,) = (
        node.body
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name == config.__name__
    )
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            name, constant = field.target, text.value
            if isinstance(name, ast.Name) and isinstance(constant, ast.Constant):
                found[name.id] = " ".join(str(constant.value).split())
    return found
