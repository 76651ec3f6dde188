"""benchmarks.load.sweep: what it does not measure."""

import pytest

from benchmarks.load.sweep import _check_batch, _check_no_ensemble, answers_after_its_call
from builder.errors import SpecError
from clients.contract import Contract


def test_an_ensemble_is_refused_with_its_steps():
    steps = [{"model_name": name} for name in ("shapes_decode", "shapes", "shapes_select")]
    with pytest.raises(
        SpecError, match="--model shapes_jpeg: it is an ensemble of shapes_decode, shapes, shapes_select"
    ):
        _check_no_ensemble({"ensemble_scheduling": {"step": steps}}, "shapes_jpeg")
    _check_no_ensemble({"backend": "python"}, "shapes")


def test_more_images_in_a_request_than_the_model_takes_are_refused():
    contract = Contract(model="m", version="", size_hw=(64, 64), names=("a",), max_batch_size=8, max_detections=5)
    _check_batch(8, contract)
    with pytest.raises(SpecError, match="--batch 9: m takes up to 8 images"):
        _check_batch(9, contract)


def test_only_a_python_model_of_this_project_answers_after_its_call():
    assert answers_after_its_call({"backend": "python"})
    assert not answers_after_its_call({"backend": "tensorrt"})
    assert not answers_after_its_call({"platform": "tensorrt_plan"})
