"""Requests and answers of a detector that takes encoded images, ``NAME_jpeg``, without a connection.

The image's bytes travel as they are: the server decodes them, brings the boxes back to the image's own pixels, and
answers with the rows that the request selects and no others.

Legend: N rows, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clients.detections import Detections
from clients.encoded_images import FORMATS, check_encoded
from clients.errors import ContractError, ImageError, one_line
from clients.images import ImageSource
from clients.selection import EVERYTHING, Selection, class_numbers
from clients.selection_text import PARAMETER, selection_text

CONTRACT = "encoded/1"
INPUT = "encoded"
OUTPUT = "detections"


class ModelNames(NamedTuple):
    """The models of a repository by which a detector takes encoded images."""

    decode: str
    select: str
    jpeg: str
    """The ensemble that a client asks."""


def model_names(detector: str) -> ModelNames:
    """The names that go with a detector's."""
    return ModelNames(decode=f"{detector}_decode", select=f"{detector}_select", jpeg=f"{detector}_jpeg")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedContract:
    """A served ensemble: ``encoded`` BYTES [1] in, ``detections`` FP32 [N, 6] in the image's own pixels out."""

    model: str
    """The ensemble's name."""
    names: tuple[str, ...]
    """Class names in the order of their numbers."""
    size_hw: tuple[int, int]
    """Height and width in pixels of what the detector sees."""
    max_detections: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedRequest:
    """One image as it is sent."""

    contract: EncodedContract
    encoded: bytes
    selection: Selection = EVERYTHING
    """What the server shall answer with."""
    priority: int = 0
    """From 1, the most urgent, to the model's number of levels; 0: the model's default."""
    file: str = ""
    """Where the image is from, for a message about it; empty for bytes."""

    def detections(self, rows_N6: NDArray[np.float32]) -> Detections:
        """Read the server's answer, float32 [N, 6]; raises ContractError for rows that no such server sends."""
        contract = self.contract
        if rows_N6.ndim != 2 or rows_N6.shape[1] != 6 or len(rows_N6) > contract.max_detections:
            raise ContractError(
                f"model {contract.model!r} answered with shape {list(rows_N6.shape)}, expected at most "
                f"{[contract.max_detections, 6]}: it has changed on the server; connect again"
            )
        if not np.isfinite(rows_N6).all():
            raise ContractError(
                "expected finite detections, the server sent NaN or infinity: rebuild or verify the model"
            )
        try:
            return Detections(
                xyxy=np.ascontiguousarray(rows_N6[:, :4]),
                confidence=np.ascontiguousarray(rows_N6[:, 4]),
                class_id=rows_N6[:, 5].astype(np.int64),
                names=contract.names,
            )
        except ValueError as error:
            raise ContractError(
                f"{error}: the model on the server has changed or is not what its names say; connect again"
            ) from error


def encoded_contract_from_config(config: Mapping[str, Any], *, model: str) -> EncodedContract:
    """Read an ensemble's configuration, Triton's ModelConfig as a dictionary; raises ContractError for another's."""
    parameters = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
    claimed = parameters.get("contract")
    if claimed != CONTRACT:
        came = f"says contract {claimed!r}" if claimed else "has no parameter 'contract'"
        raise ContractError(
            f"model {model!r} {came}, expected {CONTRACT!r}: build it with this release's python -m builder build"
        )
    try:
        height, width = (int(side) for side in json.loads(parameters["size_hw"]))
        names = json.loads(parameters["names"])
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("names is no list of class names")
        contract = EncodedContract(
            model=model,
            names=tuple(names),
            size_hw=(height, width),
            max_detections=int(parameters["max_detections"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(
            f"model {model!r} does not say what it detects ({type(error).__name__}: {one_line(error)}): expected "
            "parameters names, size_hw and max_detections; build it again"
        ) from error
    return contract


def encoded_request(
    source: ImageSource, contract: EncodedContract, selection: Selection = EVERYTHING, *, priority: int = 0
) -> EncodedRequest:
    """An image as a request: a path, or the bytes of a JPEG, PNG or WebP, of which only the header is read.

    Raises ImageError for another image, and ValueError for a selection of classes that the model does not have.
    """
    class_numbers(selection.classes or (), contract.names)
    match source:
        case bytes() | bytearray() | memoryview():
            encoded, file = bytes(source), ""
        case str() | os.PathLike():
            encoded, file = _file_bytes(Path(source)), str(source)
        case _:
            raise ImageError(
                f"encoded images: expected a path or the bytes of a {FORMATS}, got {type(source).__name__}: pixels are "
                'sent with send="pixels"'
            )
    try:
        check_encoded(encoded)
    except ImageError as error:
        raise _of_file(file, error) from error
    return EncodedRequest(contract=contract, encoded=encoded, selection=selection, priority=priority, file=file)


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({one_line(error)})") from error


def grpc_message(request: EncodedRequest) -> bytes:
    """A request as a serialised ModelInferRequest."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=request.contract.model)
    message.inputs.add(name=INPUT, datatype="BYTES", shape=[1])
    message.outputs.add(name=OUTPUT)
    if text := selection_text(request.selection):
        message.parameters[PARAMETER].string_param = text
    if request.priority:
        message.parameters["priority"].uint64_param = request.priority
    message.raw_input_contents.append(_bytes_tensor(request.encoded))
    content: bytes = message.SerializeToString()
    return content


def rows_from_grpc(response: Any) -> NDArray[np.float32]:
    """The rows of a ModelInferResponse, float32 [N, 6]; raises ContractError for one without them."""
    for output, content in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == OUTPUT and output.datatype == "FP32":
            return np.frombuffer(content, np.float32).reshape(tuple(output.shape))
    raise _no_rows([(output.name, output.datatype) for output in response.outputs])


def http_body(request: EncodedRequest) -> tuple[bytes, bytes]:
    """A request as the JSON and the binary part of a body of Triton's HTTP protocol."""
    content = _bytes_tensor(request.encoded)
    parameters = {"binary_data_size": len(content)}
    message: dict[str, Any] = {
        "inputs": [{"name": INPUT, "shape": [1], "datatype": "BYTES", "parameters": parameters}],
        "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}],
        "parameters": {},
    }
    if text := selection_text(request.selection):
        message["parameters"][PARAMETER] = text
    if request.priority:
        message["parameters"]["priority"] = request.priority
    return json.dumps(message).encode(), content


def rows_from_http(body: bytes, header_length: int) -> NDArray[np.float32]:
    """The rows of an answer over HTTP, float32 [N, 6]; raises ContractError for one without them."""
    outputs = json.loads(body[:header_length])["outputs"]
    if [(output["name"], output["datatype"]) for output in outputs] != [(OUTPUT, "FP32")]:
        raise _no_rows([(output["name"], output["datatype"]) for output in outputs])
    rows: NDArray[np.float32] = np.frombuffer(body[header_length:], np.float32).reshape(outputs[0]["shape"])
    return rows


_SERVERS_IMAGE_ERROR = re.compile(r"encoded image of \d+ bytes: .*")


def image_error(message: str, file: str = "") -> ImageError | None:
    """The error of an image that the server could not read, from what it said; None where it said something else."""
    found = _SERVERS_IMAGE_ERROR.search(message)
    return _of_file(file, ImageError(found.group())) if found else None


def _of_file(file: str, error: ImageError) -> ImageError:
    return ImageError(f"{file}: {error}") if file else error


def _bytes_tensor(content: bytes) -> bytes:
    # An element of a BYTES tensor follows its length (KServe v2, binary tensor data).
    return struct.pack("<I", len(content)) + content


def _no_rows(outputs: list[tuple[str, str]]) -> ContractError:
    got = ", ".join(f"{name} {datatype}" for name, datatype in outputs) or "nothing"
    return ContractError(f"expected {OUTPUT} FP32 in the answer, got {got}: verify the model on the server")
