"""The dashboard and the alert rules use only metrics and labels that exist, and every alert says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlora_ray.control.metric_table import METRICS, MetricSpec

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy/grafana/mlora_ray.json"
RULES = ROOT / "deploy/prometheus/alerts.yaml"
RULES_TEST = ROOT / "tests/deploy/alerts_test.yaml"
OPERATIONS = ROOT / "docs/operations.md"
EXPORTED: dict[str, MetricSpec] = {name: spec for spec in METRICS.values() for name in spec.exported}
METRIC = re.compile(r"\bray_\w+")
SELECTOR = re.compile(r"\b(ray_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
AGGREGATION = re.compile(r"\b(?:sum|max|min|avg|absent)(?:\s+by\s*\([^)]*\))?\s*\(")
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's package `prometheus` is missing")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def panel_expressions() -> list[tuple[str, str]]:
    """(panel, expression) with the dashboard's variables filled in."""
    filled = {"$service": "mlora", "$__rate_interval": "5m"}
    found = []
    for panel in panels():
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in filled.items():
                expression = expression.replace(variable, value)
            found.append((panel["title"], expression))
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


ALL = [*panel_expressions(), *((rule.get("alert") or rule["record"], rule["expr"]) for rule in rules())]


def find_mistakes(expression: str) -> list[str]:
    """Metrics and labels of ours in a PromQL expression that no host exports, and selectors outside an aggregation."""
    metrics = METRIC.findall(expression)
    mistakes = [f"no metric {name}" for name in metrics if name not in EXPORTED]
    known = [EXPORTED[name] for name in metrics if name in EXPORTED]
    labels = {"service", "le"} | {tag for spec in known for tag in spec.tags}
    for name, matchers in SELECTOR.findall(expression):
        allowed = {"service", *EXPORTED[name].tags} if name in EXPORTED else set()
        mistakes += [f"{name} has no label {label}" for label in MATCHER.findall(matchers) if label not in allowed]
    for group in GROUPING.findall(expression):
        used = {label.strip() for label in group.split(",")}
        mistakes += [f"no label {label}" for label in sorted(used - labels)] if metrics else []
    if metrics and not AGGREGATION.search(expression):
        mistakes.append("not aggregated over Ray's processes")
    return mistakes


@pytest.mark.parametrize(("where", "expression"), ALL)
def test_expressions_use_what_exists(where: str, expression: str) -> None:
    assert find_mistakes(expression) == []


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("sum(ray_mlora_gone_total)", "no metric ray_mlora_gone_total"),
        ("sum(rate(ray_mlora_trained_tokens[5m]))", "no metric ray_mlora_trained_tokens"),  # a counter is `_total`
        ("max(ray_mlora_queued_tokens_total)", "no metric ray_mlora_queued_tokens_total"),  # a gauge is not
        ('max(ray_mlora_current_jobs{status="QUEUED"})', "ray_mlora_current_jobs has no label status"),
        ("sum by (job) (ray_mlora_trained_tokens_total)", "no label job"),
        ('ray_mlora_wanted_hosts{service="s"}', "not aggregated over Ray's processes"),
    ],
)
def test_the_check_finds_mistakes(expression: str, said: str) -> None:
    assert said in find_mistakes(expression)


def test_the_dashboard_shows_every_metric() -> None:
    shown = {EXPORTED[name].name for _, expression in panel_expressions() for name in METRIC.findall(expression)}
    assert sorted(METRICS.keys() - shown) == []


def test_panels_lie_side_by_side() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]


def test_the_dashboards_variables_are_defined() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    defined = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board["panels"])))
    assert used == defined
    queries = [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    assert [name for query in queries for name in METRIC.findall(query) if name not in EXPORTED] == []


def anchors(text: str) -> set[str]:
    """How GitHub names the headings of a page."""
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_alert_has_its_heading_and_says_what_it_is() -> None:
    known = anchors(OPERATIONS.read_text(encoding="utf-8"))
    for alert in alerts():
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}, alert["alert"]
        path, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert ROOT / path == OPERATIONS
        assert anchor == alert["alert"].lower()
        assert anchor in known, f"docs/operations.md has no heading {alert['alert']}"
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_every_heading_of_an_alert_has_its_alert() -> None:
    headed = set(re.findall(r"^#+ +(Mlora\w+)", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE))
    assert headed == {alert["alert"] for alert in alerts()}


def test_every_alert_fires_in_a_case_of_the_rules_test() -> None:
    tested = set(re.findall(r'alertname="(\w+)"', RULES_TEST.read_text(encoding="utf-8")))
    assert tested == {alert["alert"] for alert in alerts()}


def test_recorded_names_that_rules_use_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for _, expression in ALL for name in re.findall(r"\bmlora:\w+(?::\w+)?", expression)}
    assert used == recorded


def run_promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_reads_the_rules_and_the_example() -> None:
    assert f"{len(rules())} rules found" in run_promtool("check", "rules", str(RULES))
    run_promtool("check", "config", str(RULES.parent / "prometheus.yml"))


@needs_promtool
def test_prometheus_fires_what_it_should() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", str(RULES_TEST))


@needs_promtool
def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    made = [{"record": f"panel:{i}", "expr": expression} for i, (_, expression) in enumerate(panel_expressions())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}), encoding="utf-8")
    assert f"{len(made)} rules found" in run_promtool("check", "rules", str(path))
