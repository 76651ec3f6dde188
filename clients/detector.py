"""A detector that runs on a Triton server."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from clients.batches import batch_of_one, batches
from clients.contract import contract_from_config
from clients.detections import Detections
from clients.images import ImageSource, load_decoders
from clients.transport import connect

CONNECT_TIMEOUT_S = 5.0
"""For reading the contract, which a healthy server answers at once however long inference takes."""
DEFAULT_CONFIDENCE = 0.25
DEFAULT_TIMEOUT_S = 30.0


class Detector:
    """One model on one server: images in, boxes in the images' own pixels out.

    ``url`` is ``grpc://host:port`` or ``http://host:port``. The size, the class names and the largest batch are read
    from the server when the detector is made, so an address without a server, a missing model, or one of another
    contract raises there; see ``clients.errors``. ``timeout_s`` is the time allowed for each request that is sent.

    One detector may be shared by several threads, whose requests then run side by side and share the server's batches.
    Close it, or use it in a ``with`` statement, when no thread uses it any more.
    """

    def __init__(self, url: str, model: str, *, version: str | int = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect and read the model's contract; an empty ``version`` leaves the choice to the server."""
        version = str(version)
        if not model:
            raise ValueError("expected the name of a model, got an empty one")
        if version and not (version.isascii() and version.isdigit() and int(version) > 0):
            raise ValueError(f"expected a model's version as a whole number from 1, got {version!r}")
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise ValueError(f"expected timeout_s in seconds above 0, got {timeout_s}")
        self._timeout_s = timeout_s
        # Here, so that the first picture takes no longer than those after it.
        load_decoders()
        self._transport = connect(url)
        try:
            config = self._transport.model_config(model, version, min(timeout_s, CONNECT_TIMEOUT_S))
            self._contract = contract_from_config(config, model=model, version=version)
        except BaseException:
            self._transport.close()
            raise

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._contract.model

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their numbers."""
        return self._contract.names

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input in pixels; images of any size are fitted into it."""
        return self._contract.size_hw

    @property
    def max_batch_size(self) -> int:
        """The most images that go into one request."""
        return self._contract.max_batch_size

    def detect(self, image: ImageSource, confidence: float = DEFAULT_CONFIDENCE) -> Detections:
        """Find objects of at least ``confidence`` in one image: a path, encoded bytes, or a BGR uint8 array."""
        _check_confidence(confidence)
        batch = batch_of_one(image, self._contract)
        return batch.detections(self._transport.infer(batch, self._timeout_s), confidence)[0]

    def detect_batch(self, images: Iterable[ImageSource], confidence: float = DEFAULT_CONFIDENCE) -> list[Detections]:
        """Find objects in several images, in their order, with as few requests as ``max_batch_size`` allows.

        An ImageError names the index of the image that cannot be read.
        """
        _check_confidence(confidence)
        results: list[Detections] = []
        for batch in batches(images, self._contract):
            results += batch.detections(self._transport.infer(batch, self._timeout_s), confidence)
        return results

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_confidence(confidence: float) -> None:
    if not 0 <= confidence <= 1:
        raise ValueError(f"expected a confidence from 0 to 1, got {confidence}")
