"""A model's configuration becomes a contract, or an error that says what differs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2

from builder.artifacts import Head, OnnxModel, TensorSpec
from builder.config_pbtxt import config_files
from builder.serving import ServingSettings
from clients import encoded
from clients.contract import Contract, contract_from_config
from clients.errors import ContractError
from tests.deployments import deployment

NAMES = ("circle", "étoile")


def config_of(head: Head, **changes: Any) -> dict[str, Any]:
    """What the server answers for a model that the builder configured."""
    image = TensorSpec(name="images", dtype="UINT8", shape=(480, 640, 3))
    found = TensorSpec(name="detections", dtype="FP32", shape=(300, 6))
    if head is Head.RAW:
        image = TensorSpec(name="images", dtype="FP32", shape=(3, 480, 640))
        found = TensorSpec(name="output0", dtype="FP32", shape=(6, 6300))
    model = OnnxModel(path=None, sha256="0" * 64, inputs=(image,), outputs=(found,))  # type: ignore[arg-type]
    settings = ServingSettings(max_batch=16)
    files = config_files(deployment(model, head=head, settings=settings, classes=NAMES), version=1)
    message = text_format.Parse(files[0].text, model_config_pb2.ModelConfig())
    return {**MessageToDict(message, preserving_proto_field_name=True), **changes}


def read(config: dict[str, Any]) -> Contract:
    return contract_from_config(config, model="shapes")


def test_configuration_of_the_builder_is_read() -> None:
    assert read(config_of(Head.DETECTIONS)) == Contract(
        model="shapes",
        version="",
        size_hw=(480, 640),
        names=NAMES,
        max_batch_size=16,
        max_detections=300,
        instances=1,
        max_queue_size=128,
    )


@pytest.mark.parametrize(
    ("groups", "queue", "expected"),
    [
        ([{"count": 1}], {}, 32),
        ([{"count": 2, "gpus": [0, 1]}], {}, 128),
        ([{"count": 1, "gpus": [0]}, {"count": 2}], {}, 96),
        ([], {}, 32),
        ([{"count": 2}], {"default_queue_policy": {"max_queue_size": 5}}, 5),
        ([{"count": 2}], {"default_queue_policy": {"max_queue_size": 500}}, 64),
        ([{}], {"priority_queue_policy": {"1": {"max_queue_size": 3}, "2": {}}}, 3),
    ],
)
def test_as_many_requests_as_fill_the_batcher_and_fit_its_queue(
    groups: list[dict[str, Any]], queue: dict[str, Any], expected: int
) -> None:
    contract = read(config_of(Head.DETECTIONS, instance_group=groups, dynamic_batching=queue))
    assert contract.saturating_requests == expected


def test_dimensions_may_be_numbers_as_http_sends_them() -> None:
    tensor = {"name": "images", "data_type": "TYPE_UINT8", "dims": [32, 64, 3]}
    assert read(config_of(Head.DETECTIONS, input=[tensor])).size_hw == (32, 64)


def test_raw_head_is_refused_with_what_to_use() -> None:
    with pytest.raises(ContractError, match=r"raw head .*--head detections.*YOLO\(\"grpc://HOST:PORT/shapes\"\)"):
        read(config_of(Head.RAW))


def parameters(**changes: str) -> dict[str, Any]:
    values = {"names": json.dumps(NAMES), "contract": "detections/1", **changes}
    return {key: {"string_value": value} for key, value in values.items() if value}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {}}, "has no parameter 'contract', expected 'detections/1'"),
        ({"parameters": parameters(contract=encoded.CONTRACT)}, 'without _jpeg, and send="encoded"'),
        ({"parameters": parameters(contract="detections/2")}, "says contract 'detections/2', expected 'detections/1'"),
        ({"parameters": parameters(names="")}, "expected a JSON list of class names"),
        ({"parameters": parameters(names="circle,square")}, "expected a JSON list of class names"),
        ({"parameters": parameters(names="[1, 2]")}, "expected a JSON list of class names"),
        ({"parameters": parameters(names="[]")}, "expected a JSON list of class names"),
        ({"max_batch_size": 0}, "max_batch_size 0"),
        ({"input": []}, "has input none, expected images TYPE_UINT8"),
        (
            {"input": [{"name": "jpeg", "data_type": "TYPE_STRING", "dims": ["1"]}]},
            "has input jpeg TYPE_STRING, expected images TYPE_UINT8",
        ),
        (
            {"input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["-1", "-1", "3"]}]},
            r"of shape \[-1, -1, 3\], expected 3 fixed dimensions",
        ),
        (
            {"input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["3", "640", "640"]}]},
            r"expected an input \[H, W, 3\]",
        ),
        (
            {"output": [{"name": "detections", "data_type": "TYPE_FP32", "dims": ["300", "7"]}]},
            r"and an output \[N, 6\], got .* and \[300, 7\]",
        ),
        (
            {"output": [{"name": "detections", "data_type": "TYPE_FP16", "dims": ["300", "6"]}]},
            "has output detections TYPE_FP16, expected detections TYPE_FP32",
        ),
    ],
)
def test_other_models_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=f"model 'shapes' .*{message}"):
        read(config_of(Head.DETECTIONS, **changes))


def test_empty_configuration_is_refused() -> None:
    with pytest.raises(ContractError):
        read({})
