"""A detector that runs on a Triton server, for programs with an event loop."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from clients.detections import Detections
from clients.images import ImageSource
from clients.many import AnyIterable, AsyncResults
from clients.options import DEFAULT_OPTIONS, ConnectionOptions
from clients.pace import Pace
from clients.selection import EVERYTHING, Selection
from clients.sending import Send, session_for
from clients.session import DEFAULT_CONFIDENCE, DEFAULT_TIMEOUT_S
from clients.wire.transport import AsyncTransport, connect_async


class AsyncDetector:
    """What :class:`clients.Detector` is, with ``await``.

    >>> async with AsyncDetector("grpc://127.0.0.1:8001", "shapes") as detector:
    ...     detections = await detector.detect("street.jpg")

    The model's contract is read by ``async with`` or ``await detector.connect()``, which raise what the other's
    constructor raises. Pictures are decoded and resized in threads, so the loop goes on meanwhile. A task that is
    cancelled ends its request. It belongs to the event loop that it was connected on.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: str | int = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        options: ConnectionOptions = DEFAULT_OPTIONS,
        send: Send | str = Send.PIXELS,
    ) -> None:
        """Check the arguments; an empty ``version`` leaves the choice to the server."""
        self._session = session_for(send, url, model, version=version, timeout_s=timeout_s, options=options)
        self._url = url
        self._options = options
        self._transport: AsyncTransport | None = None

    async def connect(self) -> Self:
        """Connect and read the model's contract."""
        if self._transport is None:
            transport = connect_async(self._url, self._options)
            try:
                await transport.run(self._session.open(transport.dialect))
            except BaseException:
                await transport.run(self._session.closing())
                await transport.close()
                raise
            self._transport = transport
        return self

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._session.contract.model

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their numbers."""
        return self._session.contract.names

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input in pixels; images of any size are fitted into it."""
        return self._session.contract.size_hw

    @property
    def max_batch_size(self) -> int:
        """The most images that go into one request."""
        return self._session.contract.max_batch_size

    async def is_ready(self) -> bool:
        """Whether the server can be reached and would take a request for the model now; it never waits for long.

        Raises TlsError and AccessDeniedError, which waiting does not heal.
        """
        transport = self._connected()
        return await transport.run(self._session.is_ready(transport.dialect))

    async def refresh(self) -> bool:
        """Read the model's contract again, and go by it from now on; whether it has changed. As Detector.refresh."""
        transport = self._connected()
        fresh = await transport.run(self._session.refreshed(transport.dialect))
        if fresh is None:
            return False
        self._session = fresh
        return True

    async def detect(
        self,
        image: ImageSource,
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Detections:
        """Find objects of at least ``confidence`` in one image: a path, encoded bytes, or a BGR uint8 array."""
        transport, session = self._connected(), self._session.keeping(selection)
        return await transport.run(session.detect(transport.dialect, image, confidence, priority))

    async def detect_batch(
        self,
        images: Iterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> list[Detections]:
        """Find objects in several images, in their order, with as few requests as ``max_batch_size`` allows."""
        transport, session = self._connected(), self._session.keeping(selection)
        return await transport.run(session.detect_batch(transport.dialect, images, confidence, priority))

    def detect_many(
        self,
        images: AnyIterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        in_flight: int | None = None,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> AsyncResults[ImageSource, Detections]:
        """Find objects in any number of images, each a request of its own: ``async for`` gives results in their order.

        ``in_flight`` requests run side by side; by default as many as keep the server's batcher full, and fewer while
        its queue refuses some, which are sent again within their time. Where an image
        failed, ``anext`` raises its error, and the ``anext`` after it goes on; see :class:`clients.many.AsyncResults`.
        """
        transport, session = self._connected(), self._session.keeping(selection)

        async def detect(image: ImageSource, index: int) -> Detections:
            steps = session.detect_one_of_many(
                transport.dialect, image, confidence, priority=priority, index=index, pace=pace
            )
            return await transport.run(steps)

        session.check(confidence, priority)
        most = session.in_flight(in_flight)
        pace = Pace(most)
        return AsyncResults(detect, images, most, pace)

    async def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            await self._transport.run(self._session.closing())
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> AsyncTransport:
        if self._transport is None:
            raise RuntimeError("the detector is not connected yet: await its connect(), or use it in 'async with'")
        return self._transport
