"""The models beside a detector by which it takes encoded images: JPEG, PNG or WebP in, boxes in the image's pixels out.

    NAME_decode   Python, CPU: encoded image -> letterboxed pixels, and the image's own size
    NAME          the detector, by whatever configuration the server was started with; its batcher fills batches
    NAME_select   Python, CPU: its rows -> boxes in the image's own pixels, of which the request's selection is kept
    NAME_jpeg     the ensemble of the three; what a client asks

A request of NAME_jpeg has one image and no batch dimension, so that each answer has as many rows as are left. Steps
name no version: the detector is the one version of NAME that is served, and Triton refuses an ensemble whose tensors do
not fit. Nothing here depends on the weights, so retraining publishes none of them again.

The two Python models hold copies of the clients' modules, so that an image is decoded, letterboxed and selected by the
same code on either side of the wire, and the server's Python needs numpy, Pillow and OpenCV, but not this project.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from builder.artifacts import ConfigFile, Head
from builder.config_pbtxt import ModelConfig, bound_queue
from builder.errors import SpecError
from builder.repository import VersionContent, check_model_name
from clients.encoded import CONTRACT, model_names
from clients.images import MAX_PIXELS

if TYPE_CHECKING:
    from builder.deployment import Deployment

DECODE_MODULES = ("encoded_images", "errors", "images", "letterbox")
SELECT_MODULES = ("detections", "errors", "images", "letterbox", "selection", "selection_text")
"""What of ``clients`` the models import."""
DECODE_INSTANCES = 2
"""With one that is busy and a queue policy, Triton's batcher may let a request lie for up to 500 ms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraModel:
    """A model of the repository that is published beside the detector."""

    name: str
    files: Mapping[str, bytes]
    """By their place in the version's folder."""
    config: Callable[[int], ModelConfig]
    """config.pbtxt for a version number; there are no others, since every machine runs it alike."""
    build: Mapping[str, Any]
    """What its manifest says of it."""

    def configs(self, version: int) -> tuple[ConfigFile, ...]:
        """The one configuration of a version."""
        from google.protobuf import text_format

        message = self.config(version)
        # A version that is being written beside this one must not be served, and one that is named here must exist.
        message.version_policy.specific.versions.append(version)
        text = text_format.MessageToString(message, as_utf8=True, use_short_repeated_primitives=True)
        return (ConfigFile(relative_path="config.pbtxt", text=text),)

    def content(self) -> VersionContent:
        """What is published: ``publish_content(repository, extra.name, extra.content)``."""
        return VersionContent(files=self.files, configs=self.configs, build=self.build)


def encoded_models(deployment: Deployment) -> tuple[ExtraModel, ...]:
    """The models by which a deployed detector takes encoded images, each after those that it needs.

    Raises:
        SpecError: the detector is not of the contract ``detections``, or a name would be too long for a model's.
    """
    if deployment.head is not Head.DETECTIONS:
        raise SpecError(
            f"encoded images: expected head {Head.DETECTIONS}, got {deployment.head}: its answer is not made of boxes"
        )
    names = model_names(deployment.name)
    for name in names:
        check_model_name(name)
    about = {"encoded": {"detector": deployment.name}}
    return (
        ExtraModel(
            name=names.decode,
            files={"model.py": _source("decode_model.py"), **_clients(DECODE_MODULES)},
            config=lambda _: _decode_config(names.decode, deployment),
            build=about,
        ),
        ExtraModel(
            name=names.select,
            files={"model.py": _source("select_model.py"), **_clients(SELECT_MODULES)},
            config=lambda _: _select_config(names.select, deployment),
            build=about,
        ),
        ExtraModel(name=names.jpeg, files={}, config=lambda _: _ensemble_config(deployment), build=about),
    )


def _source(file: str) -> bytes:
    return files("builder.backends").joinpath(file).read_bytes()


def _clients(modules: Iterable[str]) -> dict[str, bytes]:
    """The package ``clients`` with only these modules, to lie beside model.py."""
    package = files("clients")
    copies = {f"clients/{name}.py": package.joinpath(f"{name}.py").read_bytes() for name in modules}
    return {
        "clients/__init__.py": b'"""Copies of the modules of yolo-triton\'s clients that model.py needs."""\n',
        **copies,
    }


def _decode_config(name: str, deployment: Deployment) -> ModelConfig:
    from tritonclient.grpc import model_config_pb2 as pb

    # No batch dimension: pictures come one by one, and the detector's own batcher joins them.
    config = pb.ModelConfig(name=name, backend="python")
    config.input.add(name="encoded", data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name="images", data_type=pb.TYPE_UINT8, dims=[1, *_input_dims(deployment)])
    config.output.add(name="image_hw", data_type=pb.TYPE_INT32, dims=[2])
    config.instance_group.add(count=DECODE_INSTANCES, kind=pb.ModelInstanceGroup.KIND_CPU)
    bound_queue(config.dynamic_batching, deployment.whole_fleet)
    config.parameters["max_pixels"].string_value = str(MAX_PIXELS)
    return config


def _select_config(name: str, deployment: Deployment) -> ModelConfig:
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(name=name, backend="python")
    config.input.add(name="letterboxed", data_type=pb.TYPE_FP32, dims=[1, *deployment.model.outputs[0].shape])
    config.input.add(name="decoded_hw", data_type=pb.TYPE_INT32, dims=[2])
    _add_answer(config)
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    _add_parameters(config, _about(deployment))
    return config


def _ensemble_config(deployment: Deployment) -> ModelConfig:
    from tritonclient.grpc import model_config_pb2 as pb

    names = model_names(deployment.name)
    (images,), (detections,) = deployment.model.inputs, deployment.model.outputs
    config = pb.ModelConfig(name=names.jpeg, platform="ensemble")
    config.input.add(name="encoded", data_type=pb.TYPE_STRING, dims=[1])
    _add_answer(config)
    steps = (
        (names.decode, {"encoded": "encoded"}, {"images": "images", "image_hw": "decoded_hw"}),
        (deployment.name, {images.name: "images"}, {detections.name: "letterboxed"}),
        (
            names.select,
            {"letterboxed": "letterboxed", "decoded_hw": "decoded_hw"},
            # Every output is of the last step: asked only for one of an earlier step, Triton answers "unexpected
            # deadlock" (2.51).
            {output.name: output.name for output in config.output},
        ),
    )
    for model, inputs, outputs in steps:
        # -1 is the newest that is served.
        step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
        step.input_map.update(inputs)
        step.output_map.update(outputs)
    _add_parameters(config, {"contract": CONTRACT, **_about(deployment)})
    return config


def _add_answer(config: ModelConfig) -> None:
    """What the selecting step answers with."""
    from tritonclient.grpc import model_config_pb2 as pb

    for name, data_type, dims in (
        ("detections", pb.TYPE_FP32, [-1, 6]),
        ("xyxy", pb.TYPE_FP32, [-1, 4]),
        ("confidence", pb.TYPE_FP32, [-1]),
        ("class_id", pb.TYPE_INT32, [-1]),
        ("count", pb.TYPE_INT32, [1]),
        ("image_hw", pb.TYPE_INT32, [2]),
    ):
        config.output.add(name=name, data_type=data_type, dims=dims)


def _about(deployment: Deployment) -> dict[str, str]:
    height, width, _ = _input_dims(deployment)
    return {
        "names": json.dumps(deployment.classes, ensure_ascii=False),
        "size_hw": json.dumps([height, width]),
        "max_detections": str(deployment.model.outputs[0].shape[0]),
    }


def _input_dims(deployment: Deployment) -> tuple[int, ...]:
    """Height, width and channels."""
    (images,) = deployment.model.inputs
    return images.shape


def _add_parameters(config: ModelConfig, parameters: Mapping[str, str]) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = value
