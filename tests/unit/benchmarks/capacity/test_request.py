"""What a request says of each GPU, and bad requests: each is one clear error."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks.capacity.request import check_sources, kinds_of
from builder.errors import SpecError
from tests.unit.benchmarks.capacity.load_reports import load_report, written


@pytest.fixture
def report():
    return load_report({1: 0.004, 4: 0.01}, concurrencies=(1, 8))


@pytest.fixture
def file(report, tmp_path):
    return str(written(report, tmp_path / "load.json"))


def kinds(*gpus, reports=(), throughputs=(), prices=(), model=None):
    return kinds_of(gpus, reports=reports, throughputs=throughputs, prices=prices, model=model)


def test_each_gpu_has_what_is_said_of_it(file):
    t4, l4, a10 = kinds("t4, L4", "a10", reports=[file], throughputs=["l4=120,a10=200"], prices=["t4=0.35", "l4=0.8"])
    assert (t4.name, t4.gpu.name, t4.origin, t4.images_per_s, t4.price_per_hour) == ("t4", "t4", file, None, 0.35)
    assert (l4.report, l4.images_per_s, l4.price_per_hour) == (None, 120.0, 0.8)
    assert (a10.images_per_s, a10.price_per_hour) == (200.0, None)


def test_one_throughput_may_be_that_of_all():
    assert [kind.images_per_s for kind in kinds("t4,l4", throughputs=["80"])] == [80.0, 80.0]


def test_a_slice_goes_by_either_of_its_names():
    (kind,) = kinds("a100-40gb:1g.5gb", throughputs=["a100-40gb-1g.5gb=30"])
    assert (kind.name, kind.images_per_s) == ("a100-40gb-1g.5gb", 30.0)


def test_a_report_that_names_no_gpu_is_a_cpus_or_the_one_that_the_user_names(report, tmp_path):
    file = str(written(dataclasses.replace(report, gpu=None), tmp_path / "cpu.json"))
    assert kinds("cpu", reports=[file])[0].report is not None
    assert kinds("l4", reports=[f"l4={file}"])[0].report is not None
    with pytest.raises(SpecError, match=r"names no GPU, as of a server that runs on a CPU; .* --report l4="):
        kinds("l4", reports=[file])


def test_a_file_whose_name_holds_an_equals_sign_is_a_file(report, tmp_path):
    file = str(written(report, tmp_path / "a=b.json"))
    assert kinds("t4", reports=[file])[0].origin == file


@pytest.mark.parametrize(
    ("gpus", "flags", "expected"),
    [
        (["t5"], {}, "unknown GPU 't5'"),
        (["t4,,l4"], {}, "--gpu: expected values separated by commas, got an empty one"),
        (["t4", "T4"], {}, "--gpu: expected each GPU once, got t4 twice"),
        (["t4"], {"prices": ["l4=0.8"]}, "--price: expected a GPU of --gpu (t4), got l4"),
        (["t4"], {"prices": ["t9=0.8"]}, "unknown GPU 't9'"),
        (["t4,l4"], {"prices": ["0.8"]}, "--price: expected GPU=NUMBER, such as t4=0.35, got 0.8"),
        (["t4"], {"prices": ["t4=cheap"]}, "--price: expected a number above 0, got t4=cheap"),
        (["t4"], {"prices": ["t4=0"]}, "--price: expected a number above 0, got t4=0"),
        (["t4"], {"prices": ["t4=1,t4=2"]}, "--price: expected one number for each GPU, got a second for t4: t4=2"),
        (["t4"], {"throughputs": ["l4=80"]}, "--throughput: expected a GPU of --gpu (t4), got l4"),
        (["t4"], {"throughputs": ["inf"]}, "--throughput: expected a number above 0, got inf"),
        (["t4"], {"throughputs": ["t4=nan"]}, "--throughput: expected a number above 0, got t4=nan"),
        (["t4"], {"throughputs": ["80", "t4=90"]}, "--throughput: expected one number for each GPU"),
        (["t4"], {"reports": ["missing.json"]}, "missing.json: expected a load report, but it cannot be read"),
    ],
)
def test_a_bad_request_is_one_clear_error(gpus, flags, expected):
    with pytest.raises(SpecError) as caught:
        kinds(*gpus, **flags)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_reports_that_do_not_fit_the_request_are_refused(report, file, tmp_path):
    def other(name, **changes) -> str:
        return str(written(dataclasses.replace(report, **changes), tmp_path / name))

    cases = [
        (["l4"], [file], None, "--report: expected a GPU of --gpu (l4), got t4"),
        (["t4", "l4"], [f"l4={file}"], None, f"--report l4={file}: expected a report of l4, got one of t4"),
        (["t4"], [file], "yolo11n", f"--report {file}: expected a report of the model yolo11n, got one of shapes"),
        (["t4"], [file, file], None, f"--report: expected one report of each GPU, got {file} and {file} of t4"),
    ]
    empty = other("empty.json", points=())
    cases.append((["t4"], [empty], None, f"--report {empty}: expected measured points, got none"))
    unknown = other("unknown.json", gpu="t5")
    cases.append((["t4"], [unknown], None, "unknown GPU 't5'"))
    another = other("another.json", gpu="l4", model="yolo11n")
    cases.append((["t4", "l4"], [file, another], None, f"--report {another}: expected a report of the model shapes"))
    for gpus, reports, model, expected in cases:
        with pytest.raises(SpecError) as caught:
            kinds(*gpus, reports=reports, model=model)
        assert str(caught.value).startswith(expected)


def test_a_file_that_is_no_report_is_refused(tmp_path):
    path = tmp_path / "load.json"
    path.write_text(json.dumps({"schema": "load/0"}))
    with pytest.raises(SpecError, match="expected a load report"):
        kinds("t4", reports=[str(path)])


def test_a_report_and_a_throughput_of_one_gpu_are_refused(file):
    with pytest.raises(SpecError, match="t4: expected --report or --throughput, got both"):
        kinds("t4", reports=[file], throughputs=["80"])


def test_a_gpu_of_which_nothing_is_known_is_refused(file):
    with pytest.raises(SpecError, match=r"l4: expected its load report .* or a graph to estimate by .*, got nothing"):
        check_sources(kinds("t4,l4", reports=[file]), None)
    with pytest.raises(SpecError, match=r"^cpu: expected its load report .*=IMAGES_PER_S\), got nothing"):
        check_sources(kinds("cpu"), None)
    check_sources(kinds("t4", reports=[file]), None)
