"""Brings a detector's boxes back to the picture and keeps what was asked for; copied into a version as ``model.py``.

In come ``letterboxed`` FP32 [1, N, 6], as the detector answers, and ``decoded_hw`` INT32 [2], the picture's own size.
Out come the M rows that are left, the surest first: ``detections`` FP32 [M, 6], x1 y1 x2 y2 in the picture's own
pixels, confidence, class; the same in parts, ``xyxy`` FP32 [M, 4], ``confidence`` FP32 [M], ``class_id`` INT32 [M];
their ``count`` INT32 [1]; and ``image_hw`` INT32 [2], the size as it came.

The request parameter ``select`` says what to keep (clients.selection_text); without it, that is every row that the
detector has used. A selection that cannot be read fails its own request. String parameters of the model configuration:

- ``size_hw``: height and width of the detector's input, a JSON list.
- ``names``: the names of its classes, a JSON list.

The rules are the clients' own modules, copied beside this file as the package ``clients``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read what the configuration says of the detector, and answer one empty request."""
        config = json.loads(args["model_config"])
        # First: the copies beside this file, whatever the server's Python has of the same name.
        sys.path.insert(0, str(Path(__file__).parent))
        try:
            from clients import selection_text
            from clients.detections import Detections
            from clients.letterbox import Letterbox
        except (ImportError, AttributeError) as e:
            raise pb_utils.TritonModelException(
                f"{config['name']}: {e}; expected Python 3.11 or later with numpy, "
                f"this is {sys.version.partition(' ')[0]}"
            ) from e
        self._detections, self._letterbox, self._text = Detections, Letterbox, selection_text

        height, width = _parameter(config, "size_hw")
        self._size_hw = (int(height), int(width))
        self._names = tuple(map(str, _parameter(config, "names")))
        rows = [int(size) for size in config["input"][0]["dims"]]
        self._tensors(np.zeros(rows, np.float32)[0], self._size_hw, "{}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            rows_1N6 = pb_utils.get_input_tensor_by_name(request, "letterboxed").as_numpy()
            height, width = pb_utils.get_input_tensor_by_name(request, "decoded_hw").as_numpy().tolist()
            text = self._selection_text(json.loads(request.parameters() or "{}"))
            return pb_utils.InferenceResponse(self._tensors(rows_1N6[0], (height, width), text))
        except ValueError as e:
            return _failed(e, pb_utils.TritonError.INVALID_ARG)
        except Exception as e:  # whatever it is, the client must hear of it
            return _failed(e, pb_utils.TritonError.INTERNAL)

    def _selection_text(self, parameters: dict[str, Any]) -> str:
        """The parameter ``select``; other parameters are the server's, as forwarded headers are."""
        for field in self._text.FIELDS:
            if field in parameters:
                raise ValueError(f"parameter {field!r}: give it in JSON in the parameter {self._text.PARAMETER!r}")
        text = parameters.get(self._text.PARAMETER, "{}")
        if not isinstance(text, str):
            raise ValueError(f"parameter {self._text.PARAMETER!r}: expected a string of JSON, got {text!r}")
        return text

    def _tensors(self, rows_N6: Any, image_hw: tuple[int, int], text: str) -> list[Any]:
        wanted = self._text.selection_from(text)
        box = self._letterbox.fit(image_hw, self._size_hw)
        found = self._detections.from_rows(rows_N6, box, self._names, wanted.confidence)
        kept = wanted.apply(found)
        classes = kept.class_id.astype(np.float32)
        return [
            pb_utils.Tensor("detections", np.column_stack([kept.xyxy, kept.confidence, classes])),
            pb_utils.Tensor("xyxy", np.ascontiguousarray(kept.xyxy)),
            pb_utils.Tensor("confidence", np.ascontiguousarray(kept.confidence)),
            pb_utils.Tensor("class_id", kept.class_id.astype(np.int32)),
            pb_utils.Tensor("count", np.array([len(kept)], np.int32)),
            pb_utils.Tensor("image_hw", np.array(image_hw, np.int32)),
        ]


def _failed(error: Exception, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error) or type(error).__name__, code))


def _parameter(config: dict[str, Any], key: str) -> Any:
    """A string parameter that holds JSON."""
    return json.loads(config["parameters"][key]["string_value"])
