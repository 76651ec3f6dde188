"""Detect objects with a model that a Triton server serves.

>>> from clients import Detector
>>> with Detector("grpc://127.0.0.1:8001", "shapes") as detector:
...     detections = detector.detect("street.jpg")
"""

from clients.detections import Detection, Detections
from clients.detector import Detector
from clients.draw import draw
from clients.errors import (
    AddressError,
    ClientError,
    ContractError,
    DeadlineExceededError,
    ImageError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
)
from clients.images import ChannelOrder, Pixels, read_image
from clients.letterbox import Letterbox, letterbox

__all__ = [
    "AddressError",
    "ChannelOrder",
    "ClientError",
    "ContractError",
    "DeadlineExceededError",
    "Detection",
    "Detections",
    "Detector",
    "ImageError",
    "InferenceError",
    "Letterbox",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "Pixels",
    "ServerUnavailableError",
    "draw",
    "letterbox",
    "read_image",
]
