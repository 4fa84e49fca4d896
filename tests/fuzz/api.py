"""The API of a real manager under schemathesis: `python -m tests.fuzz.api --examples 40`.

Cases are made from the manager's own description, completed by the bodies its routes decode and by
names that exist. Whatever is asked, by an admin: no answer says that something failed inside, every
refusal has a code, and none repeats a text of the query or the body. Ends with 1 if any did.
"""

import argparse
import ast
import importlib
import inspect
import json
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

import hypothesis
import msgspec

import cluster.api
from cluster.protocol.errors import ClusterError, InvalidRequest, MalformedMessage
from cluster.protocol.https_client import request
from tests.support.running import TRUST_DOMAIN, RunningCluster, running_cluster

WRITES: Final = ("post", "put", "patch")
SHORTEST: Final = 8
"""Letters of a text that cannot stand in an answer by chance."""
FAILED: Final = 500
REFUSED: Final = 400
NAMES: Final = ("held", "idle", "red", "n1")
"""Of things that exist; the operator who asks is not among them, so that he stays."""
SHOWN: Final = 20


def bodies() -> dict[str, type[msgspec.Struct]]:
    """Return what each route decodes, by the name of its function."""
    found: dict[str, type[msgspec.Struct]] = {}
    for module_info in pkgutil.iter_modules(cluster.api.__path__, "cluster.api."):
        if ".routes_" not in module_info.name:
            continue
        module = importlib.import_module(module_info.name)
        for function in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(function, ast.AsyncFunctionDef):
                for name in _decoded(function):
                    found[function.name] = getattr(module, name)
    return found


def _decoded(function: ast.AsyncFunctionDef) -> Iterator[str]:
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "decoded":
            yield ast.unparse(call.args[1])


def complete(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description with every body, and with names that exist."""
    shapes = bodies()
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            function = operation["summary"].lower().replace(" ", "_")
            if method in WRITES and function in shapes and "requestBody" not in operation:
                (schema,), parts = msgspec.json.schema_components(
                    [shapes[function]], ref_template="#/components/schemas/{name}"
                )
                description.setdefault("components", {}).setdefault("schemas", {}).update(parts)
                content = {"application/json": {"schema": schema}}
                operation["requestBody"] = {"required": True, "content": content}
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    known = {"enum": list(NAMES)}
                    parameter["schema"] = {"anyOf": [known, {"type": "string", "minLength": 1}]}
        del path
    return description


def texts(value: object) -> Iterator[str]:
    """Yield every text in a case that would be recognised."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str) and len(value) >= SHORTEST:
        yield value


class Judge:
    """Sends cases and keeps what must not have been answered."""

    def __init__(self, running: RunningCluster, described: dict[str, Any]) -> None:
        self._running = running
        self._described = json.dumps(described)
        """Words of the API itself: an answer may use them."""
        assert running.operator is not None
        self._context = running.operator.context()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    def send(self, case: Any) -> None:  # noqa: ANN401  # schemathesis is not in the venv of mypy
        """Send one case and look at its answer."""
        what = f"{case.method} {case.operation.path}"
        query = urlencode(case.query or {}, doseq=True, errors="replace")
        body = case.body if isinstance(case.body, bytes | dict | list | str) else b""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            answer = request(
                [self._running.managers[0].api], case.method,
                case.formatted_path + (f"?{query}" if query else ""),
                body=content, context=self._context, trust_domain=TRUST_DOMAIN, timeout_s=60,
            )  # fmt: skip
        except (InvalidRequest, MalformedMessage):
            self.statuses["not sent"] += 1  # h11 does not write such a path
            return
        except ClusterError as error:
            self.wrong.append(f"{what}: {type(error).__name__} {body!r:.300}")
            return
        self.statuses[f"{answer.status // 100}xx"] += 1
        if answer.status >= FAILED:
            self.wrong.append(f"{what}: {answer.status} {answer.body!r:.200} for {body!r:.300}")
        elif answer.status >= REFUSED:
            self._check_refusal(what, case, answer.body)

    def _check_refusal(self, what: str, case: Any, body: bytes) -> None:  # noqa: ANN401  # as above
        said = json.loads(body)
        if not isinstance(said.get("code"), str):
            self.wrong.append(f"{what}: no code in {body!r:.200}")
        sent = texts([case.query, case.body])
        shown = [one for one in sent if one in said["message"] and one not in self._described]
        if shown:
            self.wrong.append(f"{what}: repeats {shown[0]!r} in {said['message']!r}")


def main() -> int:
    """Try every operation and tell what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.api", description=__doc__)
    parser.add_argument("--examples", type=int, default=30, help="cases for each operation")
    arguments = parser.parse_args()
    schemathesis = importlib.import_module("schemathesis")  # of the venv for fuzzing alone
    with running_cluster(agents=1, engine="etcd") as running:
        for name in ("held", "idle"):
            running.create_secret(name, b"value")
        running.create_service("red", 20_003, "held")
        described = complete(running.call("GET", "/openapi.json").body)
        judge = Judge(running, described)
        schema = schemathesis.openapi.from_dict(described)
        for result in schema.get_all_operations():
            operation = result.ok()
            _try(operation, judge, arguments.examples)
            told = f"{operation.method.upper():7}{operation.path}  {dict(judge.statuses)}"
            sys.stdout.write(f"{told}\n")
            sys.stdout.flush()
        judge.wrong += [
            line for line in running.managers[0].text().splitlines() if "request.failed" in line
        ]
        assert running.call("GET", "/v1/status").status < REFUSED
    sys.stdout.write(f"{dict(judge.statuses)}, {len(judge.wrong)} wrong\n")
    sys.stdout.write("".join(f"  {line}\n" for line in judge.wrong[:SHOWN]))
    return 1 if judge.wrong else 0


def _try(operation: Any, judge: Judge, examples: int) -> None:  # noqa: ANN401  # as above
    @hypothesis.settings(
        max_examples=examples, database=None, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy())
    def run(case: Any) -> None:  # noqa: ANN401  # as above
        judge.send(case)

    run()


if __name__ == "__main__":
    sys.exit(main())
