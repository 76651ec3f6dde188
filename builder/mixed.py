"""Mixed precision by measurement: the fewest groups of layers in FP16 with which the rest may stay in INT8.

What a group costs is measured with it alone in INT8. Measured the other way round, with it alone given back, the other
groups' losses hide it: calibrated on faint noise, the sample loses 10 to 15 times its limit whichever group goes, where
alone 9 of its 19 groups lose a hundredth of the limit or less, and one loses 8 limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from builder.errors import AccuracyError
from builder.gate import confidence_drop
from builder.layers import LayerGroup

if TYPE_CHECKING:
    from builder.comparison import Comparison
    from builder.gate import GateLimits

TAKE_BACKS = 4
"""Trials at the end of a search to do without a group that was given back."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """What a mixture was measured to be."""

    comparison: Comparison
    """Against FP32."""
    map50_95: float
    int8_share: float
    """Of the convolutions' multiply-adds."""


Judge: TypeAlias = Callable[[tuple[str, ...]], Judged]
"""Quantizes with these groups given back to FP16, evaluates and compares; the same groups give the same figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A mixture that was tried on all images."""

    given_back: tuple[str, ...]
    """The groups in FP16, the costliest first."""
    int8_share: float
    map50_95: float
    map_drop: float
    """FP32's mAP50-95 - the mixture's."""
    confidence_drop: float | None
    """The median over matched boxes, FP32's - the mixture's; None where no box is matched."""
    violation: float
    """See ``GateLimits.violation``; infinite where no box is matched."""
    passes: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What a group of layers costs in INT8."""

    group: LayerGroup
    violation_alone: float
    """``GateLimits.violation`` on the subset, with this group in INT8 and all others in FP16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """The result of a search, and how it was found."""

    exclude: tuple[str, ...]
    """The groups that are given back, the costliest first; none where plain INT8 passes."""
    steps: tuple[Step, ...]
    """The greedy walk, the fewest groups first, then the trials to do without one; one of them is the result."""
    sensitivities: tuple[Sensitivity, ...]
    """The costliest first; none where plain INT8 passes."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; a violation that is infinite is null."""
        values = asdict(self)
        for each in values["steps"]:
            each["violation"] = _finite(each["violation"])
        for each in values["sensitivities"]:
            each["violation_alone"] = _finite(each["violation_alone"])
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Mixture:
        """What ``to_json`` gave, read back from JSON."""
        return cls(
            exclude=tuple(values["exclude"]),
            steps=tuple(
                Step(**each | {"given_back": tuple(each["given_back"]), "violation": _number(each["violation"])})
                for each in values["steps"]
            ),
            sensitivities=tuple(
                Sensitivity(
                    group=LayerGroup(**each["group"] | {"convolutions": tuple(each["group"]["convolutions"])}),
                    violation_alone=_number(each["violation_alone"]),
                )
                for each in values["sensitivities"]
            ),
        )


def find_mixture(
    groups: Sequence[LayerGroup],
    judge_subset: Judge,
    judge_all: Judge,
    limits: GateLimits,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Mixture:
    """Give groups back to FP16, the costliest first, until the gate passes; then do without those not needed.

    Each of the n groups is measured once on the subset. How many of the costliest must go, 1 to n - 1, is then sought
    on all images: first where the measured costs of the rest add up to the limit, then around it in doubling strides
    and by halves, as though more groups given back never lost more. The cheapest of them, ``TAKE_BACKS`` at most, are
    then put back into INT8 one by one where the gate still passes: the subset may have blamed them wrongly. That is n
    evaluations of the subset, and at most ``most_evaluations(n)`` of all images: 16 for 19 groups. At least one group
    stays in INT8. Nothing is drawn at random and ties are broken by name: equal judgements give an equal result.

    Args:
        groups: see ``layers.candidate_groups``.
        judge_subset: judges on some of the images.
        judge_all: judges on all of them, as the gate does.
        limits: what the gate lets pass.
        progress: called after each evaluation with the number done, and the most that there can be.

    Raises:
        AccuracyError: no mixture that was tried passes with any INT8 left.
    """
    search = _Search(groups, judge_subset, judge_all, limits, progress)
    whole = search.step(())
    if whole.passes:
        return Mixture(exclude=(), steps=(whole,), sensitivities=())
    sensitivities = search.sensitivities()
    names = tuple(each.group.name for each in sensitivities)
    expected = _expected([each.violation_alone for each in sensitivities])
    count = _shortest(len(names), expected, lambda n: search.step(names[:n]).passes)
    walk = sorted(search.steps, key=lambda each: len(each.given_back))
    if count is None:
        raise AccuracyError(_refusal(walk, len(groups), limits))
    result = search.without_needless(search.step(names[:count]))
    trials = [each for each in search.steps if each not in walk]
    return Mixture(exclude=result.given_back, steps=(*walk, *trials), sensitivities=sensitivities)


def most_evaluations(groups: int) -> int:
    """How many mixtures a search tries on all images at most: plain INT8, the walk, the trials at its end."""
    doublings = math.ceil(math.log2(max(groups, 1)))
    return 1 + (2 * doublings + 1) + TAKE_BACKS


class _Search:
    """The judgements of one search; each mixture is judged once."""

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        judge_subset: Judge,
        judge_all: Judge,
        limits: GateLimits,
        progress: Callable[[int, int], None],
    ) -> None:
        self._groups, self._limits, self._progress = groups, limits, progress
        self._judge_subset, self._judge_all = judge_subset, judge_all
        self._steps: dict[frozenset[str], Step] = {}
        self._done, self._total = 0, len(groups) + most_evaluations(len(groups))

    @property
    def steps(self) -> list[Step]:
        """In the order in which they were tried."""
        return list(self._steps.values())

    def step(self, given_back: tuple[str, ...]) -> Step:
        """The judgement of all images."""
        key = frozenset(given_back)
        if key not in self._steps:
            judged = self._judge_all(given_back)
            map_drop = judged.comparison.overall.map50_95
            assert map_drop is not None, "data without an object is refused"
            self._steps[key] = Step(
                given_back=given_back,
                int8_share=judged.int8_share,
                map50_95=judged.map50_95,
                map_drop=map_drop,
                confidence_drop=confidence_drop(judged.comparison.drift),
                violation=self._limits.violation(judged.comparison),
                # Without any INT8 left it is another precision than the one that was asked for.
                passes=judged.int8_share > 0 and not self._limits.failures(judged.comparison),
            )
            self._count()
        return self._steps[key]

    def sensitivities(self) -> tuple[Sensitivity, ...]:
        """Of every group on the subset, the costliest first."""
        found = []
        for group in self._groups:
            others = tuple(each.name for each in self._groups if each is not group)
            violation = self._limits.violation(self._judge_subset(others).comparison)
            found.append(Sensitivity(group=group, violation_alone=violation))
            self._count()
        return tuple(sorted(found, key=lambda each: (-each.violation_alone, each.group.name)))

    def without_needless(self, step: Step) -> Step:
        """``step``, or the one with fewer groups given back that also passes."""
        # Its last group is needed: without it the walk failed.
        for name in step.given_back[-2::-1][:TAKE_BACKS]:
            trial = self.step(tuple(each for each in step.given_back if each != name))
            if trial.passes:
                step = trial
        return step

    def _count(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _expected(costs: Sequence[float]) -> int:
    """How many of the first groups must go for the costs of the rest to add up to no more than the limit."""
    return next(count for count in range(len(costs) + 1) if sum(costs[count:]) <= 1)


def _shortest(groups: int, expected: int, passes: Callable[[int], bool]) -> int | None:
    """The least count from 1 to below ``groups`` that passes, sought around ``expected``; None where none does.

    0 is known to fail. In strides that double until the answer lies between two counts, then by halves.
    """
    fails, holds, stride = 0, groups, 1
    count = min(max(expected, 1), groups - 1)
    while holds - fails > 1:
        if passes(count):
            holds = count
            following = count - stride
        else:
            fails = count
            following = count + stride
        stride *= 2
        count = following if fails < following < holds else (fails + holds) // 2
    return holds if holds < groups else None


def _refusal(steps: Sequence[Step], groups: int, limits: GateLimits) -> str:
    best = min(steps, key=lambda each: (each.violation, len(each.given_back)))
    drop = "by all there is" if best.confidence_drop is None else f"by {best.confidence_drop:.2g}"
    return (
        f"no mixture of INT8 and FP16 passes the gate. Of {len(steps)} that were tried, from none to "
        f"{len(steps[-1].given_back)} of the {groups} groups of layers given back to FP16, the best has "
        f"{len(best.given_back)} given back and {best.int8_share:.1%} of the multiply-adds in INT8: mAP50-95 falls by "
        f"{best.map_drop:.2g}, limit {limits.max_map_drop:g}, and the median confidence {drop}, limit "
        f"{limits.max_confidence_drop:g}. Calibrate with images of what the model will see (--calibration), raise the "
        f"limits, or build with --precision fp16."
    )


def _finite(violation: float) -> float | None:
    return violation if math.isfinite(violation) else None


def _number(violation: float | None) -> float:
    return math.inf if violation is None else violation
