"""One request at a time, by a client that is warm itself: what is slow at first is then the server.

A cold client pays for its own start at its first request: imports, the connection, OpenCV's first picture. So the
pictures are letterboxed beforehand, the libraries have carried requests to another server (``rehearsed`` in
``measure``), and the connection has carried the model's metadata before the clock starts. What remains the client's is
the first large message of a connection, which is measured alone, by a new connection to the server when it is warm.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.contract import Contract
from clients.wire.transport import connect

REQUEST_TIMEOUT_S = 120.0
"""A runtime that compiles at its first request takes that long."""
METADATA_TIMEOUT_S = 30.0
TOUCHES = 3


class WarmClient:
    """A connection that has been used, and pictures that are ready to be sent to one model."""

    def __init__(self, url: str, contract: Contract, pictures_PHWC: NDArray[np.uint8]) -> None:
        """Connect by asking for the model's configuration; pictures are UINT8 [P, H, W, 3]. Raises ClientError."""
        self._model = contract.model
        self._transport = connect(url)
        self._batches = [
            Batch(contract=contract, images_BHWC=picture_HWC[None], letterboxes=()) for picture_HWC in pictures_PHWC
        ]
        self._sent = 0
        try:
            self.touch()
        except BaseException:
            self.close()
            raise

    def touch(self) -> None:
        """Ask for the model's configuration, which runs nothing of the model."""
        for _ in range(TOUCHES):
            self._transport.model_config(self._model, "", METADATA_TIMEOUT_S)

    def latency_ms(self) -> float:
        """Send the next picture and wait for its boxes. Raises ClientError."""
        batch = self._batches[self._sent % len(self._batches)]
        self._sent += 1
        start = time.perf_counter()
        self._transport.infer(batch, REQUEST_TIMEOUT_S)
        return (time.perf_counter() - start) * 1e3

    def latencies_ms(self, requests: int) -> tuple[float, ...]:
        """The same so many times, one after the other."""
        return tuple(self.latency_ms() for _ in range(requests))

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
