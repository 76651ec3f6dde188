"""Plans of TensorRT-RTX are real ones; of TensorRT there is the header alone, as none can be built without a GPU."""

import numpy as np
import pytest

from builder.plan_header import PlanKind, read_plan_header
from tests.plans import compiled_plan, plan_with_filler, ultralytics_metadata


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    model = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 16, 16])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 4, 14, 14])],
        [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")],
    )
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module", params=["7.5", "8.9", "12.0"])
def rtx_plan(request, graph):
    pytest.importorskip("tensorrt_rtx")
    return compiled_plan(graph, graph.with_name(f"{request.param}.plan"), request.param)


@pytest.fixture
def header_of(tmp_path):
    """``header_of(content)``: what is read from a file of that content."""

    def read(content):
        (tmp_path / "model.plan").write_bytes(content)
        return read_plan_header(tmp_path / "model.plan")

    return read


class TestRealPlan:
    """Of TensorRT-RTX, compiled here."""

    def test_is_told_with_its_librarys_version(self, rtx_plan):
        import tensorrt_rtx

        header = read_plan_header(rtx_plan)
        assert header.kind is PlanKind.TENSORRT_RTX
        assert header.version == tensorrt_rtx.__version__
        assert header.description == f"a plan of TensorRT-RTX {tensorrt_rtx.__version__}"

    def test_records_its_own_size(self, rtx_plan):
        header = read_plan_header(rtx_plan)
        assert header.recorded_bytes == header.file_bytes == rtx_plan.stat().st_size
        assert not header.cut_short

    @pytest.mark.parametrize("kept", [0.5, 0.999])
    def test_that_was_cut_short_is_told(self, rtx_plan, header_of, kept):
        content = rtx_plan.read_bytes()
        assert header_of(content[: int(kept * len(content))]).cut_short

    def test_behind_metadata_is_found(self, rtx_plan, header_of):
        front = ultralytics_metadata()
        header = header_of(front + rtx_plan.read_bytes())
        assert (header.kind, header.metadata_bytes) == (PlanKind.TENSORRT_RTX, len(front))
        assert header.plan_bytes == rtx_plan.stat().st_size
        assert not header.cut_short


class TestHeaderOfTensorRT:
    @pytest.mark.parametrize("version", ["8.6.3.1", "10.13.3.9", "11.0.0.114"])
    def test_gives_the_version(self, header_of, version):
        header = header_of(plan_with_filler(version))
        assert (header.kind, header.version) == (PlanKind.TENSORRT, version)
        assert not header.cut_short

    def test_with_a_size_beyond_the_file_is_cut_short(self, header_of):
        assert header_of(plan_with_filler()[:-1]).cut_short

    def test_that_ends_within_the_header_is_cut_short(self, header_of):
        header = header_of(plan_with_filler()[:20])
        assert header.cut_short
        assert (header.kind, header.version) == (PlanKind.TENSORRT, None)

    @pytest.mark.parametrize("recorded", [0, 1 << 63])
    def test_whose_size_can_be_none_says_nothing_of_it(self, header_of, recorded):
        header = header_of(plan_with_filler(recorded=recorded))
        assert header.recorded_bytes is None
        assert not header.cut_short

    def test_of_an_unknown_layout_gives_neither_version_nor_size(self, header_of):
        header = header_of(plan_with_filler(layout=7))
        assert (header.kind, header.version, header.recorded_bytes) == (PlanKind.TENSORRT, None, None)

    def test_of_an_old_plan_gives_no_version(self, header_of):
        header = header_of(plan_with_filler(tag=b"ptrt", layout=96))
        assert (header.kind, header.version) == (PlanKind.OLD_TENSORRT, None)
        assert header.description == "a plan of TensorRT before 8.6"

    def test_behind_metadata_is_found(self, header_of):
        front = ultralytics_metadata()
        header = header_of(front + plan_with_filler("10.9.0.34"))
        assert (header.version, header.metadata_bytes, header.cut_short) == ("10.9.0.34", len(front), False)

    def test_behind_metadata_is_cut_short_where_the_plan_is(self, header_of):
        assert header_of((ultralytics_metadata() + plan_with_filler())[:-1]).cut_short

    def test_behind_what_only_looks_like_metadata_is_not_found(self, header_of):
        header = header_of(ultralytics_metadata(b"{no JSON}") + plan_with_filler())
        assert (header.kind, header.metadata_bytes) == (PlanKind.NO_PLAN, 0)

    def test_metadata_alone_is_no_plan(self, header_of):
        header = header_of(ultralytics_metadata())
        assert (header.kind, header.description) == (PlanKind.NO_PLAN, "empty")
        assert header.metadata_bytes == len(ultralytics_metadata())


class TestNoPlan:
    @pytest.mark.parametrize(
        ("content", "description"),
        [
            (b"", "empty"),
            (bytes(4096), "zeros"),
            (b"not a plan\r\n" * 100, "text"),
            ("Wörter\n".encode() * 100, "text"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
            (b"PK\x03\x04\x00\x00", "a zip archive"),
            (bytes(range(128, 256)), "unknown, it begins with 80 81 82 83"),
            (b"ftr", "text"),
        ],
    )
    def test_is_told_for_what_it_is(self, header_of, content, description):
        header = header_of(content)
        assert header.kind is PlanKind.NO_PLAN
        assert header.description.startswith(description)
        assert not header.cut_short

    def test_an_onnx_file_is_told(self, graph):
        assert read_plan_header(graph).description == "an ONNX file"

    def test_a_missing_file_is_an_os_error(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_plan_header(tmp_path / "gone.plan")
