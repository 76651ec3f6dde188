"""Decodes a JPEG, PNG or WebP and fits it into a detector's input; copied into a version as Triton's ``model.py``.

``encoded`` BYTES [1] in; ``images`` UINT8 [1, H, W, 3], letterboxed RGB, and ``image_hw`` INT32 [2], the picture's own
height and width once it is upright, out. Height and width of the input come from the model configuration, and so do
these string parameters:

- ``max_pixels``: a picture of more is refused by its header; clients.images.MAX_PIXELS is the default and the most.
- ``decoding_threads``: those of one instance; by default the cores that it may use, shared by the instances.

The decoders and the letterbox are the clients' own modules, copied beside this file as the package ``clients``.

A request has one picture, and Triton hands them over one by one: a call returns as soon as its picture has a place, and
each is answered when it is done, so a picture that cannot be read fails its own request and no other. Run two instances
where the configuration has a queue policy: Triton's batcher may otherwise let a request lie for up to 500 ms while the
only instance has no place (2.51: a hundred requests at once took 14 s instead of half a second).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

LARGE_PIXELS = 16_000_000
"""Of pictures above this an instance decodes one at a time: 7 bytes a pixel on every thread would be too much."""


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the decoders and run each once, so that the first request finds them warm."""
        config = json.loads(args["model_config"])
        # First: the copies beside this file, whatever the server's Python has of the same name.
        sys.path.insert(0, str(Path(__file__).parent))
        try:
            import cv2

            from clients import encoded_images, errors, images
            from clients.letterbox import letterbox

            images.load_decoders()
        except (ImportError, AttributeError) as e:
            raise pb_utils.TritonModelException(
                f"{config['name']}: {e}; expected Python 3.11 or later with numpy, Pillow and OpenCV, which are "
                f"installed by: pip install pillow opencv-python-headless; this is {sys.version.partition(' ')[0]}"
            ) from e
        # The threads are those of this model: each picture has one.
        cv2.setNumThreads(1)
        self._check_encoded, self._read_pixels = encoded_images.check_encoded, images.read_pixels
        self._image_error, self._letterbox = errors.ImageError, letterbox

        outputs = {tensor["name"]: [int(size) for size in tensor["dims"]] for tensor in config["output"]}
        _, height, width, _ = outputs["images"]
        self._size_hw = (height, width)
        self._max_pixels = _whole(config, "max_pixels", images.MAX_PIXELS, most=images.MAX_PIXELS)
        instances = sum(group["count"] for group in config["instance_group"])
        threads = _whole(config, "decoding_threads", max(1, len(os.sched_getaffinity(0)) // instances), most=1024)
        self._large = threading.Lock()
        # One more than there are threads: each finds its next picture waiting. The rest waits in Triton's queue, which
        # has a bound, and not in the memory that this process shares with it.
        self._places = threading.Semaphore(threads + 1)
        self._threads = ThreadPoolExecutor(threads)
        for encoded in _samples():
            self._tensors(encoded)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests of one call; each is answered through its own sender."""
        for request in requests:
            self._places.acquire()
            self._threads.submit(self._answer, request)

    def finalize(self) -> None:
        """Answer what is still running."""
        self._threads.shutdown()

    def _answer(self, request: Any) -> None:
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            request.get_response_sender().send(self._response(request), flags=final)
        finally:
            self._places.release()

    def _response(self, request: Any) -> Any:
        try:
            encoded = pb_utils.get_input_tensor_by_name(request, "encoded").as_numpy()
            return pb_utils.InferenceResponse(self._tensors(bytes(encoded[0])))
        except self._image_error as e:
            return _failed(e, pb_utils.TritonError.INVALID_ARG)
        except Exception as e:  # whatever it is, the client must hear of it
            return _failed(e, pb_utils.TritonError.INTERNAL)

    def _tensors(self, encoded: bytes) -> list[Any]:
        height, width = self._check_encoded(encoded)
        pixels = height * width
        if pixels > self._max_pixels:
            raise self._image_error(
                f"encoded image of {len(encoded)} bytes: {width}x{height} pixels are more than this server's limit of "
                f"{self._max_pixels}: scale the image down"
            )
        images_BHWC = np.empty((1, *self._size_hw, 3), np.uint8)
        with self._large if pixels > LARGE_PIXELS else contextlib.nullcontext():
            picture = self._read_pixels(encoded)
            box = self._letterbox(picture.array_HWC, self._size_hw, images_BHWC[0], order=picture.order)[1]
        return [
            pb_utils.Tensor("images", images_BHWC),
            pb_utils.Tensor("image_hw", np.array(box.image_hw, np.int32)),
        ]


def _failed(error: Exception, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error) or type(error).__name__, code))


def _samples() -> list[bytes]:
    """A small picture in each format."""
    from PIL import Image

    encoded = []
    for file_format in ("JPEG", "PNG", "WEBP"):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48)).save(buffer, file_format)
        encoded.append(buffer.getvalue())
    return encoded


def _whole(config: dict[str, Any], key: str, default: int, *, most: int) -> int:
    """A string parameter as a whole number from 1."""
    text = str(config.get("parameters", {}).get(key, {}).get("string_value", default))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= most):
        raise pb_utils.TritonModelException(
            f"{config['name']}: parameter {key}: expected a whole number from 1 to {most}, got {text!r}"
        )
    return int(text)
