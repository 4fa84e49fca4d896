"""Metrics, their reference, the alerts and their pages are one thing."""

import re
from pathlib import Path

import pytest

from cluster import gauges, metrics
from cluster.standing import State
from cluster.store.records import NodeState

_NAME = re.compile(r"\bstrongroom_[a-z_]+")
_SUFFIX = re.compile(r"_(bucket|sum|count)$")
_READ = re.compile(r'_one\(\s*"([a-z_]+)"')


def _in_code() -> set[str]:
    """Return every metric's name as a scraper sees it, without a histogram's suffixes."""
    counted = metrics.Metrics()
    counted.request("api", "GET", "/", 200, 0.0)
    counted.transaction("committed", 1, 0.0)
    counted.barrier("done", 0.0)
    text = counted.render().decode()
    seen = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE strongroom_")}
    source = Path(gauges.__file__).read_text()
    read = {f"strongroom_{name}" for name in _READ.findall(source)}
    named = set(re.findall(r'"(strongroom_[a-z_]+)"', source))
    return {name for name in seen if not name.endswith("_created")} | read | named


def _rules(root: Path) -> dict[str, str]:
    """Return each rule of the file by the alert's name, without its indent."""
    text = (root / "docs/how-to/alerts/strongroom.rules.yml").read_text()
    rules = {}
    for part in text.split("      - alert: ")[1:]:
        lines = ("- alert: " + part).splitlines()
        rule = "\n".join([lines[0], *(line.removeprefix("      ") for line in lines[1:])])
        rules[lines[0].removeprefix("- alert: ")] = rule.rstrip() + "\n"
    return rules


def test_reference_names_every_metric_and_no_other(root: Path) -> None:
    page = (root / "docs/reference/metrics.md").read_text()
    assert set(_NAME.findall(page)) == _in_code()


def test_rules_use_metrics_that_exist(root: Path) -> None:
    known = _in_code()
    rules = _rules(root)
    assert len(rules) > 10
    for name, rule in rules.items():
        (expression,) = re.findall(r"^  expr: (.*)$", rule, re.MULTILINE)
        used = {_SUFFIX.sub("", metric) for metric in _NAME.findall(expression)}
        assert used <= known, name
        assert used or "up{" in expression, name


@pytest.mark.parametrize("label", ["state", "whose"])
def test_rules_ask_for_labels_that_exist(root: Path, label: str) -> None:
    text = (root / "docs/how-to/alerts/strongroom.rules.yml").read_text()
    wanted = set(re.findall(rf'{label}="([a-z_]+)"', text))
    source = Path(gauges.__file__).read_text()
    states = {*State, *NodeState}
    assert wanted
    assert all(f'"{value}"' in source or value in states for value in wanted)


def test_each_alert_has_a_page_that_quotes_its_rule(root: Path) -> None:
    pages = root / "docs/how-to/alerts"
    index = (pages / "README.md").read_text()
    rules = _rules(root)
    named = set()
    for name, rule in rules.items():
        (page,) = re.findall(r"runbook: docs/how-to/alerts/(\S+\.md)$", rule, re.MULTILINE)
        assert rule in (pages / page).read_text(), name
        assert f"[{name}]({page})" in index
        named.add(page)
    assert {path.name for path in pages.glob("*.md")} == named | {"README.md"}
