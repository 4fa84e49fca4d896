"""Metrics, their reference, the alerts and their pages are one thing."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from agent import metrics as agent_metrics
from agent.counted import Counted, Standing
from cluster import gauges, metrics
from cluster.api.refused import Refused
from cluster.doctor.members import AUTHORITY_SOON_S, DAY_S
from cluster.standing import State
from tests.architecture.alert_rules import Documented, faults, reference, samples

_NAME = re.compile(r"\bstrongroom_[a-z_]+")
_TOTAL = {"counter": "_total"}


def _counted() -> Iterable[Metric]:
    """Return what a manager and an agent count, as their registries hold it."""
    of_manager = metrics.Metrics()
    of_manager.request("api", "GET", "/", 200, 0.0)
    of_manager.refusing("api", Refused)
    of_manager.transaction("committed", 1, 0.0)
    of_manager.barrier("done", 0.0)
    yield from of_manager._registry.collect()
    standing = Standing(
        in_session=True, since_applied_s=0.0, services=0, files=0, files_lapsed=0,
        lease_left_s=0.0, certificate_left_s=0.0, certificate_faults=0,
    )  # fmt: skip
    yield from agent_metrics._Read(Counted(), standing).collect()


def _read() -> Iterable[tuple[str, frozenset[str]]]:
    """Return name and label of each reading in the source of the gauges."""
    tree = ast.parse(Path(gauges.__file__).read_text())
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        texts = [one.value if isinstance(one, ast.Constant) else None for one in call.args]
        if isinstance(call.func, ast.Name) and texts and isinstance(texts[0], str):
            if call.func.id == "_one":
                yield f"strongroom_{texts[0]}", frozenset()
            elif call.func.id == "Gauge":
                label = texts[3] if len(texts) > 3 else ""
                yield texts[0], frozenset([str(label)] if label else [])


def _in_code() -> dict[str, tuple[str, frozenset[str]]]:
    """Return type and labels of every metric by the name that a reader looks for."""
    found = {name: ("gauge", labels) for name, labels in _read()}
    for one in _counted():
        if not one.name.startswith("strongroom_"):
            continue
        labels = frozenset().union(*(sample.labels for sample in one.samples)) - {"le"}
        found[one.name + _TOTAL.get(one.type, "")] = one.type, labels
    return found


def _rules(root: Path) -> dict[str, str]:
    """Return each rule of the file by the alert's name, without its indent."""
    text = (root / "docs/how-to/alerts/strongroom.rules.yml").read_text()
    rules = {}
    for part in text.split("      - alert: ")[1:]:
        lines = ("- alert: " + part).splitlines()
        rule = "\n".join([lines[0], *(line.removeprefix("      ") for line in lines[1:])])
        rules[lines[0].removeprefix("- alert: ")] = rule.rstrip() + "\n"
    return rules


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """Return the reference."""
    return (root / "docs/reference/metrics.md").read_text()


def test_reference_has_every_metric_with_its_type_and_labels(page: str) -> None:
    code = _in_code()
    documented = {
        name: (one.kind, one.labels)
        for name, one in reference(page).items()
        if name.startswith("strongroom_")
    }
    assert len(documented) > 40
    assert documented == code
    assert set(_NAME.findall(page)) == set(code)


def test_reference_has_every_reason_of_a_refusal(page: str) -> None:
    table, _, _ = page.partition("| reason |")[2].partition("\n\n")
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line)}
    assert named == {one.value for one in Refused}


def test_rules_name_what_the_reference_has_and_use_it_as_its_type(root: Path, page: str) -> None:
    """Each metric, label and value of a rule. What a rule says of samples is not tried here."""
    known, rules = samples(reference(page)), _rules(root)
    assert len(rules) > 10
    wrong = {}
    for name, rule in rules.items():
        (expression,) = re.findall(r"^  expr: (.*)$", rule, re.MULTILINE)
        if found := faults(expression, known):
            wrong[name] = found
    assert wrong == {}


def test_each_state_of_a_manager_that_does_not_serve_has_an_alert(root: Path) -> None:
    """None is left out: also who scrapes an empty manager expects a cluster on it."""
    named = {
        state
        for rule in _rules(root).values()
        for states in re.findall(r'strongroom_manager_state{state=~?"([a-z|]+)"}', rule)
        for state in states.split("|")
        if states != State.SERVING
    }
    assert named == set(State) - {State.SERVING}


def test_alert_for_authorities_comes_when_doctor_warns(root: Path) -> None:
    rule = _rules(root)["StrongroomAuthorityEnding"]
    (days,) = re.findall(r"< (\d+) \* 86400$", rule, re.MULTILINE)
    assert int(days) * DAY_S == AUTHORITY_SOON_S


KNOWN = {
    "up": Documented("gauge", frozenset(), ""),
    "a_total": Documented("counter", frozenset({"reason"}), "rate, body"),
    "b": Documented("gauge", frozenset({"state"}), "down, ready"),
}


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ('max(b{state="down"}) > 0 and on (instance) up{job="x"} == 1', ""),
        ('sum by (instance, reason) (rate(a_total{reason=~"rate|body"}[5m])) > 5', ""),
        ("c > 0", "there is no c"),
        ('b{state="up"} > 0', "b: state is never up"),
        ('b{reason="down"} > 0', "b has no label reason"),
        ('rate(a_total{reason=~"rate|no"}[5m]) > 5', "a_total: reason is never no"),
        ("sum by (state) (rate(a_total[5m])) > 5", "no metric here has the label state"),
        ("a_total > 5", "a_total is a counter"),
        ("rate(b[5m]) > 5", "b is a gauge"),
        ("rate(a_total) > 5", "a_total: a range and a rate belong together"),
        ("sum(a_total[5m]) > 5", "a_total: a range and a rate belong together"),
        ("maximum(b) > 5", "there is no maximum"),
        ("max(b > 5", "a parenthesis is missing"),
        ("5 > 4", "no metric"),
    ],
)
def test_wrong_expression_is_seen(expression: str, fault: str) -> None:
    found = faults(expression, KNOWN)
    assert fault in found if fault else found == []


def test_each_alert_has_a_page_that_quotes_its_rule(root: Path) -> None:
    pages = root / "docs/how-to/alerts"
    index = (pages / "README.md").read_text()
    rules = _rules(root)
    named = set()
    for name, rule in rules.items():
        (named_page,) = re.findall(r"runbook: docs/how-to/alerts/(\S+\.md)$", rule, re.MULTILINE)
        assert rule in (pages / named_page).read_text(), name
        assert f"[{name}]({named_page})" in index
        named.add(named_page)
    assert {path.name for path in pages.glob("*.md")} == named | {"README.md"}
