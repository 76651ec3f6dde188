"""The fewest GPUs with which the goal holds, whatever happens."""

from __future__ import annotations

import dataclasses

from benchmarks.capacity.simulation import Fleet, Outcome, Scenario, simulate_scenario

SEARCHED = 4
"""Times the GPUs of the formula: beyond that many no fleet is looked for."""


def outcomes_of(fleet: Fleet) -> dict[Scenario, Outcome]:
    """Of every scenario."""
    return {scenario: simulate_scenario(fleet, scenario) for scenario in Scenario}


def fewest_that_hold(fleet: Fleet) -> int | None:
    """By doubling steps from one more on, then by halves; the fleet's own number is known to miss."""

    def holds(gpus: int) -> bool:
        larger = dataclasses.replace(fleet, gpus=gpus)
        return all(simulate_scenario(larger, scenario).holds for scenario in Scenario if scenario.judged)

    most, misses, step = most_tried(fleet), fleet.gpus, 1
    while misses < most:
        tried = min(most, misses + step)
        if holds(tried):
            break
        misses, step = tried, 2 * step
    else:
        return None
    while tried - misses > 1:
        middle = (misses + tried) // 2
        misses, tried = (misses, middle) if holds(middle) else (middle, tried)
    return tried


def most_tried(fleet: Fleet) -> int:
    """The largest fleet that is looked at."""
    # A stream stays on one GPU: with one for each, and one to be lost, more are of no use.
    return max(fleet.gpus, min(fleet.streams + 1, SEARCHED * fleet.gpus + SEARCHED))
