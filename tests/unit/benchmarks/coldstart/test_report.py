"""What follows from the turns of a cold start, as text, values and a page in a real browser."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.coldstart.figures import Alternation, Idling, Requests, Start, Switch
from benchmarks.coldstart.page import page
from benchmarks.coldstart.report import ColdstartReport
from benchmarks.coldstart.variants import Warmup
from benchmarks.svg import LOOKS
from tests.browser import open_page

STEADY_MS = 30.0


def requests(first: float, steady: float = STEADY_MS) -> Requests:
    """20 of them; the second and tenth are between."""
    return Requests(latencies_ms=(first, *[steady + (first - steady) / 4] * 9, *[steady] * 10))


def start(model: str, warmup: Warmup, first: float, **changes: object) -> Start:
    made = Start(
        model=model,
        warmup=warmup,
        ready_s=1.5,
        up_s=0.1,
        load_s=1.3,
        requests=requests(first),
        new_connection_ms=33.0,
    )
    return replace(made, **changes)


def idlings(alone: list[float], kept: list[float]) -> tuple[Idling, ...]:
    made = Idling(model="day", idle_s=60, keepwarm_s=None, before_ms=STEADY_MS, requests=requests(STEADY_MS))
    pairs = zip(alone, kept, strict=True)
    return tuple(
        replace(made, keepwarm_s=every, requests=requests(first))
        for pair in pairs
        for every, first in zip((None, 5.0), pair, strict=True)
    )


FIRSTS = {Warmup.AS_BUILT: (31.0, 33.0, 60.0), Warmup.NO_MODEL_WARMUP: (45.0, 48.0, 51.0), Warmup.NOTHING: (90.0,) * 3}


def report(**changes: object) -> ColdstartReport:
    made = ColdstartReport(
        models=("day", "night"),
        served_by="configs/cpu.pbtxt",
        repeats=3,
        requests=20,
        starts=tuple(
            start(model, warmup, FIRSTS[warmup][turn])
            for turn in range(3)
            for model in ("day", "night")
            for warmup in Warmup
        ),
        switches=tuple(
            Switch(to=model, load_s=1.2, unload_s=0.4, requests=requests(34.0)) for model in ("night", "day")
        ),
        alternations=(Alternation(alone_ms={"day": 30.0, "night": 32.0}, alternating_ms={"day": 36.0, "night": 33.0}),),
        idlings=idlings([34.0, 35.0, 36.0], [31.0, 36.0, 33.0]),
        other_cpu_share=0.01,
        environment={"cores": "2"},
    )
    return replace(made, **changes)


def test_the_target_is_the_median_over_turns_of_the_ratio_within_each() -> None:
    made = report()
    assert made.first_ratios["day", Warmup.AS_BUILT].median == pytest.approx(1.1)
    assert made.all_met
    slow = report(starts=tuple(replace(each, requests=requests(46.0)) for each in made.starts))
    assert not slow.all_met
    assert "first request after READY at most 1.5 x the steady median: 1.53, NOT MET" in slow.to_text()


def test_a_target_missed_without_warmup_is_told_and_no_failure() -> None:
    text = report().to_text()
    assert "day, first request after READY at most 1.5 x the steady median: 1.10, met" in text
    assert "(without model_warmup 1.60, nothing warmed 3.00)" in text


@pytest.mark.parametrize(
    ("alone", "kept", "verdict"),
    [
        ([40.0, 45.0, 50.0], [31.0, 31.0, 31.0], "keepwarm helps on this server"),
        ([31.0, 31.0, 31.0], [40.0, 45.0, 50.0], "keepwarm makes it worse on this server"),
        ([40.0, 45.0, 30.0], [31.0, 31.0, 31.0], "no help that these turns could show"),
        ([31.5, 31.5, 31.5], [31.0, 31.0, 31.0], "no help that these turns could show"),
        ([90.0, 90.0], [30.0, 30.0], "2 of the 3 turns that it takes to say whether keepwarm helps"),
    ],
)
def test_keepwarm_helps_only_where_every_turn_and_a_tenth_say_so(
    alone: list[float], kept: list[float], verdict: str
) -> None:
    made = report(idlings=idlings(alone, kept))
    assert made.keepwarm_text().startswith(verdict)
    assert made.keepwarm_text() in made.to_text()


def test_what_was_not_measured_is_said() -> None:
    made = report(switches=(), alternations=(), idlings=())
    text = made.to_text()
    assert "switching between models: not measured (it takes a second --model)" in text
    assert "idling: not measured (--parts)" in text
    assert made.keepwarm_text() is None
    idled = report(starts=(), switches=(), alternations=())
    assert "starts: not measured (--parts)" in idled.to_text()
    assert idled.all_met
    assert idled.to_json()["targets"] == []
    unknown = report(starts=tuple(replace(each, up_s=None, load_s=None) for each in made.starts))
    assert "–" in unknown.to_text()


def test_the_values_hold_every_latency() -> None:
    values = json.loads(json.dumps(report().to_json()))
    assert len(values["starts"]) == 18
    assert values["starts"][0]["latencies_ms"][0] == 31.0
    assert values["starts"][0]["warmup"] == "as built"
    assert values["targets"] == [
        {"model": model, "required": 1.5, "reached": pytest.approx(1.1), "met": True} for model in ("day", "night")
    ]
    assert values["alternations"][0]["alternating_ms"] == {"day": 36.0, "night": 33.0}


def test_too_few_requests_have_no_steady_median() -> None:
    with pytest.raises(ValueError, match="expected 20 requests or more, got 19"):
        Requests(latencies_ms=(30.0,) * 19)


def test_the_page_shows_each_arrangement_by_request_number(tmp_path: Path) -> None:
    path = tmp_path / "coldstart.html"
    path.write_text(page(report(models=("day", "night"))))
    shown = open_page(path)
    assert shown.flaws() == []
    assert shown.title == "Cold start of day, night"
    charts = {chart.label: chart for chart in shown.charts}
    assert set(charts) == {
        *(f"{model}: milliseconds of each request after READY, by its number" for model in ("day", "night")),
        *(f"{model}: seconds from the start of the process until READY" for model in ("day", "night")),
        "milliseconds of each request after a switch, by its number",
        "milliseconds of each request after idling, by its number",
    }
    # A line and a marker for each of 20 requests of each of three arrangements.
    assert charts["day: milliseconds of each request after READY, by its number"].marks >= 3 * 21
    assert all(chart.marks > 0 and chart.width > 100 for chart in shown.charts)
    assert "nothing warmed" in shown.text
    assert "1.10, met" in shown.text


def test_a_page_of_many_models_has_as_many_charts_as_it_takes_to_tell_them_apart() -> None:
    made = report()
    many = report(switches=tuple(replace(made.switches[0], to=f"model{number}") for number in range(LOOKS + 1)))
    label = "milliseconds of each request after a switch, by its number"
    assert page(many).count(f'aria-label="{label}"') == 2
    assert page(made).count(f'aria-label="{label}"') == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "day", "--model", "day"], "--model: expected each model once, got day, day"),
        (["--model", "day", "--requests", "19"], "--requests: expected 20 or more, got 19"),
        (
            ["--model", "day", "--parts", "switching"],
            "--parts switching: expected two models to switch between, got day",
        ),
        (
            ["--model", "day", "--idle-s", "5", "--keepwarm-s", "5"],
            "--keepwarm-s: expected less than the 5 s of --idle-s",
        ),
        (
            ["--model", "day", "--html", "/nowhere/at/all/page.html"],
            "--html /nowhere/at/all/page.html: expected the folder",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["coldstart", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "long"])
def test_what_is_no_time_to_idle_is_refused(seconds: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["coldstart", "--model", "day", f"--idle-s={seconds}"])
    assert caught.value.code == 2
