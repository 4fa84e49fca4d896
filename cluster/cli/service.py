"""`strongroom service`: which service gets which secrets and configs, on which nodes."""

from argparse import Namespace

from cluster.cli import answers
from cluster.cli.arguments import Parser, add_connection, add_waiting, verbs_of
from cluster.cli.connection import Connection, connect, path_of
from cluster.cli.output import ExitCode, print_object, print_result, print_rows
from cluster.cli.rollouts import follow
from cluster.cli.service_logs import add_logs
from cluster.cli.service_spec import (
    add_change_flags,
    add_spec_flags,
    changed_spec,
    draft_of,
    refuse_changes,
)
from cluster.cli.update_flags import add_health_flags
from cluster.protocol.errors import StaleVersion

_COLUMNS = (
    ("NAME", "name"),
    ("TASKS", "tasks"),
    ("SECRETS", "secrets"),
    ("CONSTRAINTS", "constraints"),
    ("SPEC", "spec_number"),
    ("UPDATED", "updated_at"),
)
_TASK_COLUMNS = (
    ("NODE", "node"),
    ("NODE STATE", "node_state"),
    ("DESIRED", "desired_state"),
    ("SECRET", "source"),
    ("TARGET", "target"),
    ("VERSION", "version_desired"),
    ("MOUNTED", "version_mounted"),
    ("SINCE", "since"),
    ("HEALTH", "health"),
    ("ERROR", "error"),
    ("REASON", "reason"),
)
_UPDATE_ATTEMPTS = 3


def add_commands(parser: Parser) -> None:
    """Add the verbs of `strongroom service`."""
    verbs = verbs_of(parser)

    create = verbs.add_parser("create", help="create a service and wait until its files are there")
    update = verbs.add_parser(
        "update",
        help="change a service; what no flag names stays",
        description="--secret, --config, --constraint and --label replace the whole list; "
        "the -add and -rm forms change it.",
    )
    for verb, run in ((create, _create), (update, _update)):
        verb.add_argument("name", metavar="NAME")
        add_spec_flags(verb)
        verb.set_defaults(run=run)
    add_health_flags(create, change=False)
    add_change_flags(update)
    update.add_argument(
        "--rollback",
        action="store_true",
        help="go back to the spec before the last change, as `service rollback` does",
    )

    rollback = verbs.add_parser("rollback", help="go back to the spec before the last change")
    rollback.add_argument("name", metavar="NAME")
    rollback.set_defaults(run=_roll_back)
    for verb in (create, update, rollback):
        add_waiting(verb)
        add_connection(verb)

    for name, run, help_text in (
        ("inspect", _inspect, "show a service's spec and the one before"),
        ("ps", _tasks, "show each task: its files and their versions, health, reason; what ended"),
        ("rm", _remove, "remove a service; its files go from every node"),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.add_argument("name", metavar="NAME")
        add_connection(verb)
        verb.set_defaults(run=run)

    add_logs(verbs)
    ls = verbs.add_parser("ls", help="list services")
    add_connection(ls)
    ls.set_defaults(run=_list)


def _create(args: Namespace) -> int:
    draft = draft_of(args)
    connection = connect(args)
    answer = connection.write("POST", "/v1/services", draft)
    return follow(args, connection, answer, f"service {args.name}")


def _update(args: Namespace) -> int:
    if args.rollback:
        refuse_changes(args)
        return _roll_back(args)
    connection = connect(args)
    for _attempt in range(_UPDATE_ATTEMPTS - 1):
        try:
            answer = _update_once(connection, args)
        except StaleVersion:
            # Somebody changed the spec since it was read: our change is made to the new one.
            continue
        break
    else:
        answer = _update_once(connection, args)
    return follow(args, connection, answer, _spec(answer))


def _update_once(connection: Connection, args: Namespace) -> answers.Answer:
    service = connection.get(path_of("services", args.name))
    spec = changed_spec(args.name, answers.nested(service, "spec"), args)
    update = {"spec": spec, "expected_spec_number": answers.number(service, "spec_number")}
    return connection.write("PUT", path_of("services", args.name), update)


def _roll_back(args: Namespace) -> int:
    connection = connect(args)
    answer = connection.write("POST", path_of("services", args.name, "rollback"))
    return follow(args, connection, answer, _spec(answer))


def _spec(answer: answers.Answer) -> str:
    return f"spec {answers.number(answer, 'spec_number')}"


def _list(args: Namespace) -> int:
    services = connect(args).rows("/v1/services", "services")
    rows = services if args.format == "json" else [{**row, **_summary(row)} for row in services]
    columns = list(_COLUMNS)
    if any(row.get("configs") for row in rows):
        columns.insert(columns.index(("SECRETS", "secrets")) + 1, ("CONFIGS", "configs"))
    print_rows(args, rows, columns)
    return ExitCode.DONE


def _inspect(args: Namespace) -> int:
    print_object(args, connect(args).get(path_of("services", args.name)))
    return ExitCode.DONE


def _tasks(args: Namespace) -> int:
    answer = connect(args).get(path_of("services", args.name, "tasks"))
    tasks = answers.rows(answer, "tasks")
    if not args.quiet:
        tasks += answers.rows(answer, "ended")
    rows = tasks if args.format == "json" or args.quiet else _by_reference(tasks)
    print_rows(args, rows, _TASK_COLUMNS, key="node")
    return ExitCode.DONE


def _remove(args: Namespace) -> int:
    answer = connect(args).write("DELETE", path_of("services", args.name))
    print_result(args, answer, f"service {args.name} removed", "name")
    return ExitCode.DONE


def _summary(service: answers.Answer) -> answers.Answer:
    """Return what the table shows of a service's spec."""
    spec = answers.nested(service, "spec")
    references = answers.rows(spec, "references")
    desired = "global" if spec.get("global") else service.get("tasks_desired")
    return {
        "tasks": f"{service.get('tasks_running')}/{desired}",
        "secrets": [one.get("source") for one in references if not one.get("config")],
        "configs": [one.get("source") for one in references if one.get("config")],
        "constraints": spec.get("constraints"),
    }


def _by_reference(tasks: list[answers.Answer]) -> list[answers.Answer]:
    """Return a row for each reference of each task; a task without any keeps its own row."""
    return [
        {**task, **one, **_named(one), "health": _health(task)}
        for task in tasks
        for one in (answers.rows(task, "references") or [{}])
    ]


def _named(one: answers.Answer) -> answers.Answer:
    """Return what a row calls its source: a secret may have the name of a config."""
    return {"source": f"{one.get('source')} (config)"} if one.get("config") else {}


def _health(task: answers.Answer) -> object:
    """Return what the service's check says, and why where it says no."""
    detail = task.get("health_detail")
    return f"{task.get('health')}: {detail}" if detail else task.get("health")
