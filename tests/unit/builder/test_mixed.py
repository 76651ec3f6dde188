from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.accuracy import AccuracyReport, evaluate
from builder.artifacts import NetworkModel, Precision
from builder.calibration import calibration_batches, choose_calibration
from builder.comparison import AccuracyDrop, Comparison, ConfidenceDrift, compare
from builder.dataset import DataSplit, read_folder, read_split
from builder.detectors import graph_detector
from builder.errors import AccuracyError
from builder.export import export_network
from builder.gate import GateLimits
from builder.head import attach_head
from builder.layers import LayerGroup, candidate_groups, quantized_share
from builder.mixed import TAKE_BACKS, Judged, Mixture, find_mixture, most_evaluations
from builder.quantization import Calibration, calibrate, quantize
from builder.weights import load_network
from tests.networks import head_spec

SHAPES = Path(__file__).parents[3] / "examples" / "shapes"
LIMITS = GateLimits(max_map_drop=0.01, max_confidence_drop=0.05)
TOLERANCE = 1e-9


class SyntheticJudge:
    """Arithmetic in a network's place: losses are sums over the groups in INT8, which have equal shares.

    A ``Judge`` for the logic of the search alone; ``test_noise_is_mended_on_the_sample`` runs the real parts.
    """

    def __init__(
        self,
        map_losses: Mapping[str, float],
        confidence_losses: Mapping[str, float] | None = None,
        extra: Callable[[frozenset[str]], float] = lambda int8: 0.0,
    ) -> None:
        self.map_losses, self.confidence_losses, self.extra = map_losses, confidence_losses or {}, extra
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, given_back: tuple[str, ...]) -> Judged:
        assert set(given_back) <= set(self.map_losses)
        assert len(set(given_back)) == len(given_back)
        self.asked.append(given_back)
        int8 = frozenset(self.map_losses) - frozenset(given_back)
        map_drop = math.fsum(self.map_losses[name] for name in int8) + self.extra(int8)
        confidence_drop = math.fsum(self.confidence_losses.get(name, 0.0) for name in int8)
        return Judged(
            comparison=comparison(map_drop, confidence_drop if map_drop < 0.8 else None),
            map50_95=0.8 - map_drop,
            int8_share=len(int8) / len(self.map_losses),
        )


def comparison(map_drop: float, confidence_drop: float | None) -> Comparison:
    drift = ConfidenceDrift(
        name="all",
        matched=0 if confidence_drop is None else 100,
        median=None if confidence_drop is None else -confidence_drop,
        percentile_5=None,
        percentile_95=None,
        median_absolute=None,
        percentile_95_absolute=None,
        lost=0,
        fell_below=0,
        gained=0,
    )
    overall = AccuracyDrop(name="all", objects=100, map50_95=map_drop, map50=map_drop)
    return Comparison(overall=overall, sizes=(), classes=(), drift=drift, class_drifts=(), disagreements=())


def groups_of(names: Sequence[str]) -> list[LayerGroup]:
    return [
        LayerGroup(name=name, convolutions=(f"/{name}/Conv",), multiply_adds=1000, share=1 / len(names))
        for name in names
    ]


def search(judge: SyntheticJudge, subset: SyntheticJudge | None = None, limits: GateLimits = LIMITS) -> Mixture:
    subset = subset or SyntheticJudge(judge.map_losses, judge.confidence_losses, judge.extra)
    return find_mixture(groups_of(list(judge.map_losses)), subset, judge, limits)


def test_the_costliest_groups_are_given_back_and_no_more() -> None:
    judge = SyntheticJudge({"a": 0.002, "b": 0.04, "c": 0.001, "d": 0.02, "e": 0.0})
    mixture = search(judge)
    assert mixture.exclude == ("b", "d")
    assert [each.group.name for each in mixture.sensitivities] == ["b", "d", "a", "c", "e"]
    assert [each.violation_alone for each in mixture.sensitivities] == pytest.approx([4, 2, 0.2, 0.1, 0])
    result = next(each for each in mixture.steps if each.given_back == mixture.exclude)
    assert result.passes
    assert (result.int8_share, result.map_drop) == pytest.approx((3 / 5, 0.003))
    assert result.map50_95 == pytest.approx(0.797)
    assert result.violation == pytest.approx(0.3)


def test_the_walk_is_told_from_plain_int8_on_with_the_fewest_first() -> None:
    mixture = search(SyntheticJudge({"a": 0.03, "b": 0.02, "c": 0.015, "d": 0.002}))
    assert mixture.exclude == ("a", "b", "c")
    assert mixture.steps[0].given_back == ()
    assert not mixture.steps[0].passes
    walk = [each for each in mixture.steps if each.given_back == ("a", "b", "c")[: len(each.given_back)]]
    assert [len(each.given_back) for each in walk] == sorted(len(each.given_back) for each in walk)
    assert [each.passes for each in walk] == [False] * (len(walk) - 1) + [True]


def test_confidence_alone_is_reason_enough_to_give_back() -> None:
    names = ("a", "b", "c")
    judge = SyntheticJudge(dict.fromkeys(names, 0.001), {"b": 0.2, "c": 0.01})
    mixture = search(judge)
    assert mixture.exclude == ("b",)
    assert mixture.steps[0].confidence_drop == pytest.approx(0.21)


def test_plain_int8_that_passes_is_left_alone() -> None:
    judge = SyntheticJudge({"a": 0.004, "b": 0.005})
    mixture = search(judge)
    assert (mixture.exclude, mixture.sensitivities) == ((), ())
    assert judge.asked == [()]


def test_a_group_that_the_subset_blames_wrongly_is_taken_back() -> None:
    names = ("a", "b", "c", "d")
    subset = SyntheticJudge(dict(zip(names, (0.05, 0.012, 0.04, 0.0), strict=True)))
    judge = SyntheticJudge(dict(zip(names, (0.05, 0.04, 0.001, 0.0), strict=True)))
    mixture = search(judge, subset)
    assert set(mixture.exclude) == {"a", "b"}
    tried = [set(each.given_back) for each in mixture.steps]
    assert tried.index({"a", "b", "c"}) < tried.index({"a", "b"})


def test_a_network_that_finds_nothing_at_all_is_searched_all_the_same() -> None:
    # All is lost whichever single group is given back: only each alone tells them apart.
    losses = {"a": 0.9, "b": 0.003, "c": 0.9, "d": 0.002, "e": 0.9}
    judge = SyntheticJudge(losses)
    mixture = search(judge)
    assert mixture.exclude == ("a", "c", "e")
    assert mixture.steps[0].confidence_drop is None
    assert mixture.steps[0].violation == math.inf
    assert mixture.sensitivities[0].violation_alone == math.inf
    # JSON has no infinity.
    assert Mixture.from_json(json.loads(json.dumps(mixture.to_json(), allow_nan=False))) == mixture


def test_losses_that_only_come_together_are_found() -> None:
    together = frozenset({"b", "d"})
    judge = SyntheticJudge(dict.fromkeys("abcdef", 0.001), extra=lambda int8: 0.05 if together <= int8 else 0.0)
    mixture = search(judge)
    assert not together <= set("abcdef") - set(mixture.exclude)
    # Alone they look like all others; giving back in the order of names finds the first of the two.
    assert mixture.exclude == ("b",)


def test_ties_are_broken_by_name_whatever_the_order_of_the_groups() -> None:
    losses = dict.fromkeys("fbadce", 0.004)
    mixtures = [search(SyntheticJudge({name: losses[name] for name in order})) for order in ("fbadce", "abcdef")]
    assert mixtures[0] == mixtures[1]
    assert mixtures[0].exclude == ("a", "b", "c", "d")


def test_no_mixture_is_an_error_that_tells_the_best() -> None:
    judge = SyntheticJudge({name: 0.02 + 0.01 * i for i, name in enumerate("abcde")})
    with pytest.raises(AccuracyError) as caught:
        search(judge)
    assert caught.value.exit_code == 3
    told = str(caught.value)
    assert "no mixture of INT8 and FP16 passes" in told
    assert "4 of the 5 groups" in told
    assert "20.0% of the multiply-adds in INT8" in told
    assert "mAP50-95 falls by 0.02, limit 0.01" in told
    assert "confidence by 0, limit 0.05" in told
    assert "--precision fp16" in told
    assert "\n" not in told


@pytest.mark.parametrize("names", ["a", "ab"])
def test_fp16_alone_is_never_a_mixture(names: str) -> None:
    judge = SyntheticJudge(dict.fromkeys(names, 0.5))
    with pytest.raises(AccuracyError):
        search(judge)
    assert all(set(asked) != set(names) for asked in judge.asked)


def test_a_mixture_whose_graph_has_no_int8_left_does_not_pass() -> None:
    judge = SyntheticJudge({"a": 0.5, "b": 0.0})
    with pytest.raises(AccuracyError):
        find_mixture(groups_of("ab"), judge, lambda out: replace(judge(out), int8_share=0.0), LIMITS)


def test_nan_passes_nothing() -> None:
    with pytest.raises(AccuracyError):
        search(SyntheticJudge({"a": 0.0, "b": 0.0}, {"a": math.nan, "b": math.nan}))


def test_the_cheapest_are_tried_in_int8_again_and_only_a_few() -> None:
    names = "abcdefghij"
    judge = SyntheticJudge({name: 0.1 - 0.005 * i for i, name in enumerate(names)} | {"z": 0.0})
    mixture = search(judge)
    assert mixture.exclude == tuple(names)
    trials = [set(names) - set(each.given_back) for each in mixture.steps[-TAKE_BACKS:]]
    assert trials == [{"i"}, {"h"}, {"g"}, {"f"}]


def test_costs_that_add_up_lead_straight_to_the_answer() -> None:
    judge = SyntheticJudge({name: 0.05 - 0.002 * i for i, name in enumerate("abcdefghijkl")} | {"y": 0.006, "z": 0.003})
    mixture = search(judge)
    assert mixture.exclude == tuple("abcdefghijkl")
    # The answer, and one group fewer; plain INT8 is always there.
    assert [len(each.given_back) for each in mixture.steps[:-TAKE_BACKS]] == [0, 11, 12]


def test_progress_reaches_no_further_than_it_says() -> None:
    judge = SyntheticJudge(dict.fromkeys("abcdefghijkl", 0.004))
    seen: list[tuple[int, int]] = []
    find_mixture(groups_of("abcdefghijkl"), judge, judge, LIMITS, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(judge.asked) + 1))
    assert {total for _, total in seen} == {12 + most_evaluations(12)}


def test_nineteen_groups_take_sixteen_evaluations_at_most() -> None:
    assert most_evaluations(19) == 16


losses = st.floats(0, 0.05, allow_subnormal=False)


@given(
    full=st.lists(losses, min_size=1, max_size=24),
    seen=st.lists(losses, min_size=24, max_size=24),
    honest=st.booleans(),
)
def test_what_is_found_passes_is_minimal_and_costs_no_more_than_is_said(
    full: list[float], seen: list[float], honest: bool
) -> None:
    names = [f"g{i:02}" for i in range(len(full))]
    judge = SyntheticJudge(dict(zip(names, full, strict=True)))
    subset = SyntheticJudge(dict(zip(names, full if honest else seen, strict=False)))
    try:
        mixture = search(judge, subset)
    except AccuracyError:
        if honest:
            assert min(full) > LIMITS.max_map_drop
        return
    finally:
        assert len(judge.asked) == len({frozenset(each) for each in judge.asked}) <= most_evaluations(len(full))
        assert len(subset.asked) in (0, len(full))
    assert len(mixture.exclude) < len(full)
    left = sorted(judge.map_losses[name] for name in names if name not in mixture.exclude)
    assert math.fsum(left) <= LIMITS.max_map_drop
    assert next(each for each in mixture.steps if each.given_back == mixture.exclude).passes
    assert {frozenset(each.given_back) for each in mixture.steps} == {frozenset(each) for each in judge.asked}
    if honest:  # the sum of any more groups, even of the cheapest, is over the limit
        assert math.fsum(sorted(full)[: len(left) + 1]) > LIMITS.max_map_drop - TOLERANCE or len(left) == len(full)
    assert Mixture.from_json(json.loads(json.dumps(mixture.to_json()))) == mixture


@pytest.mark.parametrize("groups", range(2, 41))
def test_every_length_of_the_answer_is_found_within_the_bound(groups: int) -> None:
    names = [f"g{i:02}" for i in range(groups)]
    for needed in range(1, groups):
        judge = SyntheticJudge({name: 0.02 if i < needed else 0.0 for i, name in enumerate(names)})
        for guess in {1, needed, groups // 2, groups - 1}:
            judge.asked.clear()
            # The subset's order is right, its sizes are not: the walk starts at a wrong length.
            subset = SyntheticJudge({name: 0.02 if i < guess else 0.001 / groups for i, name in enumerate(names)})
            assert search(judge, subset).exclude == tuple(names[:needed])
            assert len(judge.asked) <= most_evaluations(groups) - TAKE_BACKS + min(TAKE_BACKS, needed - 1)


def test_noise_is_mended_on_the_sample(tmp_path: Path) -> None:
    data = generated(tmp_path / "data", 48)
    network = export_network(load_network(SHAPES / "shapes.pt"), (320, 320), tmp_path / "network.onnx")
    parts = RealParts(network, calibrated_on_noise(network, tmp_path), tmp_path)
    subset = replace(data, images=data.images[::3])
    groups = candidate_groups(parts.quantized(()).path)
    judge_all = parts.judge(data)
    mixture = find_mixture(groups, parts.judge(subset), judge_all, LIMITS)

    plain = mixture.steps[0]
    assert plain.given_back == ()
    assert not plain.passes
    assert plain.map_drop > 0.05  # scales from noise are of no use
    result = next(each for each in mixture.steps if each.given_back == mixture.exclude)
    assert result.passes
    assert result.map_drop <= LIMITS.max_map_drop
    assert 0 < len(mixture.exclude) < len(groups)
    shares = {each.name: each.share for each in groups}
    expected = plain.int8_share - sum(shares[name] for name in mixture.exclude)
    assert result.int8_share == pytest.approx(expected)
    assert result.int8_share > 0.2
    again = judge_all(mixture.exclude)
    assert not LIMITS.failures(again.comparison)
    assert again.map50_95 == pytest.approx(result.map50_95, abs=1e-6)
    assert len(mixture.steps) <= most_evaluations(len(groups))
    assert Mixture.from_json(json.loads(json.dumps(mixture.to_json()))) == mixture


def generated(folder: Path, images: int) -> DataSplit:
    arguments = ["--out", str(folder), "--train", "1", "--val", str(images), "--size", "320"]
    subprocess.run([sys.executable, str(SHAPES / "generate.py"), *arguments], check=True, capture_output=True)
    return read_split(folder / "data.yaml", "val")


def calibrated_on_noise(network: NetworkModel, folder: Path) -> Calibration:
    """Faint noise: that of full contrast excites the sample's layers as its images do, and INT8 loses little by it."""
    (folder / "noise").mkdir()
    rng = np.random.default_rng(0)
    for i in range(64):
        pixels = np.clip(rng.normal(128, 13, (320, 320, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "noise" / f"{i:02}.png"), pixels)
    chosen = choose_calibration(read_folder(folder / "noise"), network.imgsz, 64)
    return calibrate(network, calibration_batches(chosen, 8), folder)


class RealParts:
    """The sample's network quantized, with its head, and evaluated, as a build does."""

    def __init__(self, network: NetworkModel, calibration: Calibration, folder: Path) -> None:
        self.network, self.calibration, self.folder = network, calibration, folder

    def quantized(self, exclude: tuple[str, ...]) -> NetworkModel:
        grey = np.full((1, 3, *self.network.imgsz), 0.5, np.float32)
        path = self.folder / "quantized.onnx"
        return quantize(self.network, self.calibration, grey, path, exclude=exclude, rest=Precision.FP32)

    def report(self, network: NetworkModel, data: DataSplit) -> AccuracyReport:
        attach_head(network, head_spec(network), self.folder / "served.onnx")
        return evaluate(data, graph_detector(self.folder / "served.onnx"))

    def judge(self, data: DataSplit) -> Callable[[tuple[str, ...]], Judged]:
        reference = self.report(self.network, data)

        def judged(exclude: tuple[str, ...]) -> Judged:
            network = self.quantized(exclude)
            report = self.report(network, data)
            return Judged(
                comparison=compare(reference, report),
                map50_95=report.map50_95,
                int8_share=quantized_share(network.path),
            )

        return judged
