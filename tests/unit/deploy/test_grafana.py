"""deploy/grafana/dashboard.json; tests/integration/test_prometheus.py asks a real Prometheus what its panels ask."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from tests.promql import dashboard, metric_names, panel_expressions, promtool, rules

MODEL = dashboard()
PANELS: list[dict[str, Any]] = MODEL["panels"]
DATA = [panel for panel in PANELS if "targets" in panel]
# Of Grafana's own list of units (packages/grafana-data/src/valueFormats/categories.ts).
UNITS = {"none", "s", "percentunit", "reqps", "cps"}


def test_panels_have_titles_of_their_own_units_and_a_word_of_explanation() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert all(titles)
    assert len(set(titles)) == len(titles)
    for panel in DATA:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["description"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_shares_have_the_unit_of_shares_and_times_that_of_seconds() -> None:
    for panel in DATA:
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for name in {
            name for each in panel_expressions({"panels": [panel]})[panel["title"]] for name in metric_names(each)
        }:
            if re.search(r":(ratio|share)|utilization", name):
                assert unit == "percentunit", (panel["title"], name)
            if "_seconds" in name:
                assert unit == "s", (panel["title"], name)


def test_every_expression_is_promql(tmp_path: Path) -> None:
    expressions = list(itertools.chain.from_iterable(panel_expressions(MODEL).values()))
    group = {"name": "panels", "rules": [{"record": f"panel:{n}", "expr": each} for n, each in enumerate(expressions)]}
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [group]}))
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(expressions)} rules found" in checked.stdout


def test_panels_read_what_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    read = {name for each in panel_expressions(MODEL).values() for one in each for name in metric_names(one)}
    assert read - recorded == {"up", "ALERTS"}


def test_panels_and_variables_ask_the_chosen_prometheus_and_only_variables_that_exist() -> None:
    variables = {variable["name"]: variable for variable in MODEL["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    asked = [panel["datasource"] for panel in DATA] + [target["datasource"] for p in DATA for target in p["targets"]]
    asked += [variable["datasource"] for name, variable in variables.items() if name != "datasource"]
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in asked)
    used = {name for panel in DATA for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
    assert used == set(variables) - {"datasource"}


def test_every_variable_reads_a_name_that_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule} | {"up"}
    for variable in MODEL["templating"]["list"]:
        if variable["type"] == "query":
            (metric,) = re.fullmatch(r"label_values\(([\w:]+)\{.*\}, \w+\)", variable["query"]["query"]).groups()
            assert metric in recorded


def test_panels_neither_overlap_nor_leave_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    # No row of the grid is empty.
    assert {y for _, y in taken} == set(range(max(y for _, y in taken) + 1))
