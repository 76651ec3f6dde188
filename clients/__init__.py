"""Detect objects with a model that a Triton server serves.

>>> from clients import Detector
>>> with Detector("grpc://127.0.0.1:8001", "shapes") as detector:
...     detections = detector.detect("street.jpg")
"""

from clients.async_detector import AsyncDetector
from clients.detections import Detection, Detections
from clients.detector import Detector
from clients.draw import draw
from clients.errors import (
    AccessDeniedError,
    AddressError,
    ClientError,
    ContractError,
    DeadlineExceededError,
    ImageError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    OptionsError,
    QueueFullError,
    ServerUnavailableError,
    TlsError,
)
from clients.images import ChannelOrder, Pixels, read_image
from clients.letterbox import Letterbox, letterbox
from clients.options import Compression, ConnectionOptions
from clients.retry import RetryPolicy
from clients.selection import Selection

__all__ = [
    "AccessDeniedError",
    "AddressError",
    "AsyncDetector",
    "ChannelOrder",
    "ClientError",
    "Compression",
    "ConnectionOptions",
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
    "OptionsError",
    "Pixels",
    "QueueFullError",
    "RetryPolicy",
    "Selection",
    "ServerUnavailableError",
    "TlsError",
    "draw",
    "letterbox",
    "read_image",
]
