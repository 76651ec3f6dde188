"""Plans built for this machine's GPU, and run on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder import parity
from builder.artifacts import Head
from builder.engine import EngineOptions, Library, Profile
from builder.plan_header import PlanKind, read_plan_header
from builder.releases import same_version
from builder.runtimes import RUNTIMES
from tests.gpu.running import Compiler, PlanRunner, Served, agreement

pytestmark = pytest.mark.gpu(reason="never run: no GPU could be had")

BATCHES = (Profile(batch_min=1, batch_opt=4, batch_max=4),)

Serve = Callable[[Head], Served]
Record = Callable[[str, object], None]


@pytest.mark.parametrize("head", list(Head))
def test_a_plan_finds_what_its_graph_finds_on_the_cpu(
    compiler: Compiler, head: Head, served: Serve, timings: EngineOptions, tmp_path: Path, record_property: Record
) -> None:
    sample = served(head)
    plan = compiler.build(sample.model, BATCHES, tmp_path / "model.plan", timings)
    record_property("build", f"{plan.seconds:.1f} s, {plan.path.stat().st_size / 1e6:.1f} MB")
    runner = PlanRunner(compiler.trt, plan.path)
    (expected,) = RUNTIMES["onnxruntime"](sample.model.path)({"images": sample.images})
    on_cpu = parity.finish(expected, sample.spec)
    for count in (1, len(sample.images)):
        (output,) = runner.run(sample.images[:count]).values()
        assert output.shape == (count, *expected.shape[1:])
        found = agreement(on_cpu[:count], parity.finish(output, sample.spec))
        record_property(f"batch of {count}", found.to_record())
        found.check()


def test_the_header_says_by_what_the_plan_was_built(
    compiler: Compiler, served: Serve, timings: EngineOptions, tmp_path: Path, record_property: Record
) -> None:
    plan = compiler.build(served(Head.DETECTIONS).model, BATCHES, tmp_path / "model.plan", timings)
    header = read_plan_header(plan.path)
    record_property("header", header)
    assert header.kind is (PlanKind.TENSORRT if compiler.library is Library.TENSORRT else PlanKind.TENSORRT_RTX)
    assert header.version is not None
    assert same_version(header.version, compiler.trt.__version__)
    assert header.recorded_bytes == header.file_bytes == plan.path.stat().st_size
    assert header.metadata_bytes == 0


def timings_in(compiler: Compiler, content: bytes) -> Any:
    """What a timing cache holds, in no order; all of its bytes where the library tells no more."""
    trt = compiler.trt
    logger = trt.Logger(trt.Logger.WARNING)
    config = trt.Builder(logger).create_builder_config()
    cache = config.create_timing_cache(content)
    try:
        values = {str(key): cache.query(key) for key in cache.queryKeys()}
    except (AttributeError, RuntimeError):
        # TensorRT before 10.9 has no such call, and a cache may not let itself be read.
        values = {}
    return {key: (value.tacticHash, value.timingMSec) for key, value in values.items()} or Counter(content)


def test_a_second_build_measures_nothing_that_the_timing_cache_holds(
    tensorrt: Compiler, served: Serve, tmp_path: Path, record_property: Record
) -> None:
    def built_with(cache: Path) -> Any:
        options = EngineOptions(timing_cache=cache)
        tensorrt.build(served(Head.DETECTIONS).model, BATCHES, tmp_path / "model.plan", options)
        return timings_in(tensorrt, cache.read_bytes())

    first = built_with(tmp_path / "kept.cache")
    record_property("cache", f"{(tmp_path / 'kept.cache').stat().st_size} bytes, {len(first)} entries")
    assert len(first) > 1
    # Of two measurements no two are equal.
    assert built_with(tmp_path / "kept.cache") == first
    assert built_with(tmp_path / "another.cache") != first
