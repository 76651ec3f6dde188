"""deploy/prometheus, as Prometheus' own tool reads it; tests/integration/test_prometheus.py has it run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.promql import (
    GPU_METRICS,
    PROMETHEUS,
    RULE_FILES,
    dashboard,
    metric_names,
    panel_expressions,
    promtool,
    rules,
)

RECORDED = sorted({rule["record"] for rule in rules() if "record" in rule})
ALERTS = sorted(rule["alert"] for rule in rules() if "alert" in rule)
STREAM_METRICS = {
    "yolo_stream_frames_captured_total",
    "yolo_stream_frames_total",
    "yolo_stream_latency_seconds_bucket",
    "yolo_stream_opened_total",
    "yolo_stream_playing",
}


def test_the_configuration_and_its_rules_are_prometheus_own() -> None:
    checked = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    linted = promtool("check", "rules", "--lint=all", "--lint-fatal", *(PROMETHEUS / file for file in RULE_FILES))
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_the_rules_give_what_their_tests_expect() -> None:
    tested = promtool("test", "rules", PROMETHEUS / "tests.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", [*RECORDED, *ALERTS])
def test_every_rule_is_expected_to_give_something(name: str) -> None:
    cases = yaml.safe_load((PROMETHEUS / "tests.yml").read_text())["tests"]
    expected = [case for group in cases for case in group["promql_expr_test"] if case["exp_samples"]]
    if name in ALERTS:
        assert any(
            f'alertname="{name}", alertstate="firing"' in each["labels"] for c in expected for each in c["exp_samples"]
        )
    else:
        # A goal has no case of its own: it is what other figures are compared with.
        assert name.endswith("_latency_goal_seconds") or any(name in metric_names(case["expr"]) for case in expected)


def test_a_rule_that_gives_nothing_fails_the_tests(tmp_path: Path) -> None:
    folder = shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    text = (folder / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(text.replace('up{job="triton"} == 0', 'up{job="triton"} == 2'))
    tested = promtool("test", "rules", folder / "tests.yml")
    assert tested.returncode != 0
    assert "TritonDown" in tested.stdout + tested.stderr


def test_names_that_rules_read_are_recorded_or_exported() -> None:
    read = {name for rule in rules() for name in metric_names(str(rule["expr"]))}
    unknown = read - set(RECORDED) - GPU_METRICS - STREAM_METRICS - {"up"}
    # Those of Triton that a server without a GPU has are compared with a running one.
    assert {name for name in unknown if not name.startswith(("nv_inference_", "nv_cpu_"))} == set()


def test_nothing_is_recorded_that_nobody_reads() -> None:
    expressions = [str(rule["expr"]) for rule in rules()]
    expressions += [each for panel in panel_expressions(dashboard()).values() for each in panel]
    assert set(RECORDED) <= {name for expression in expressions for name in metric_names(expression)}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in (rule for rule in rules() if "alert" in rule):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_commands_named_by_alerts_exist() -> None:
    named = {
        (module, command)
        for rule in rules()
        for text in rule.get("annotations", {}).values()
        for module, command in re.findall(r"python -m (\w+) (\w+)", text)
    }
    assert named
    for module, command in named:
        asked = [sys.executable, "-m", module, command, "--help"]
        assert subprocess.run(asked, capture_output=True, check=False, timeout=60).returncode == 0, (module, command)


def test_the_scraped_addresses_are_the_defaults_of_the_server() -> None:
    from builder.server_options import ServerOptions

    options = ServerOptions(repository=Path())
    jobs = {
        job["job_name"]: job for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    }
    (server,), (ready,) = (jobs[name]["static_configs"] for name in ("triton", "triton-ready"))
    assert server["targets"] == [f"127.0.0.1:{options.metrics_port}"]
    assert ready["targets"] == [f"127.0.0.1:{options.http_port}"]
    assert ready["labels"]["server"] == server["labels"]["server"]
    assert ready["labels"]["__metrics_path__"] == f"/v2/models/{ready['labels']['model']}/ready"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (server, reason) (rate(a_total{x="b", y=~"c d"}[2m])) / (d:e:f > bool 0)', {"a_total", "d:e:f"}),
        ('label_replace(vector(0), "alertname", "none", "", "") or on () up', {"up"}),
        ("1e6 * a offset 5m and on (b) group_left () c", {"a", "c"}),
    ],
)
def test_the_names_of_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names
