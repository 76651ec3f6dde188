"""A detector that runs on a Triton server."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from clients.detections import Detections
from clients.images import ImageSource
from clients.many import Results
from clients.options import DEFAULT_OPTIONS, ConnectionOptions
from clients.pace import Pace
from clients.selection import EVERYTHING, Selection
from clients.sending import Send, session_for
from clients.session import DEFAULT_CONFIDENCE, DEFAULT_TIMEOUT_S
from clients.wire.transport import Cancellation, connect

__all__ = ["DEFAULT_CONFIDENCE", "DEFAULT_TIMEOUT_S", "Detector"]


class Detector:
    """One model on one server: images in, boxes in the images' own pixels out.

    ``url`` is ``grpc://host:port`` or ``http://host:port``, with TLS ``grpcs://`` or ``https://``; ``options`` say what
    such a connection trusts and sends. The size, the class names and the largest batch are read from the server when
    the detector is made, so an address without a server, a missing model, or one of another contract raises there; see
    ``clients.errors``. ``timeout_s`` is the time allowed for each request, with what is sent again when the server did
    not take it (``clients.retry``).

    With ``send="encoded"`` a JPEG, PNG or WebP goes to the server as it is, to the ensemble ``NAME_jpeg`` beside the
    model, and only the boxes that are asked for come back (``clients.sending``).

    With ``send="shared-memory"`` images and boxes lie in memory that a server on this machine maps, and are not copied
    between; where it does not (``--allow-client-shm=true`` from Triton 26.04 on), they go in the messages, and one
    warning says why.

    One detector may be shared by several threads, whose requests then run side by side and share the server's batches.
    Close it, or use it in a ``with`` statement, when no thread uses it any more.
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
        """Connect and read the model's contract; an empty ``version`` leaves the choice to the server."""
        self._session = session_for(send, url, model, version=version, timeout_s=timeout_s, options=options)
        self._transport = connect(url, options)
        try:
            self._transport.run(self._session.open(self._transport.dialect))
        except BaseException:
            self.close()
            raise

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

    def is_ready(self) -> bool:
        """Whether the server can be reached and would take a request for the model now; it never waits for long.

        Raises TlsError and AccessDeniedError, which waiting does not heal.
        """
        return self._transport.run(self._session.is_ready(self._transport.dialect))

    def refresh(self) -> bool:
        """Read the model's contract again, and go by it from now on; whether it has changed.

        A server may load another version of a model at any time, with other classes or of another size. Raises what
        making a detector raises; it then goes on as before. Calls that have begun end as they began.
        """
        fresh = self._transport.run(self._session.refreshed(self._transport.dialect))
        if fresh is None:
            return False
        self._session = fresh
        return True

    def detect(
        self,
        image: ImageSource,
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Detections:
        """Find objects of at least ``confidence`` in one image: a path, encoded bytes, or a BGR uint8 array.

        ``priority`` counts from 1, the most urgent, to the model's number of levels; 0 is the model's default.
        ``selection`` says what to keep: classes, a region, a maximum. The server applies it where images are sent
        encoded, so that nothing else comes back.
        """
        session = self._session.keeping(selection)
        return self._transport.run(session.detect(self._transport.dialect, image, confidence, priority))

    def detect_batch(
        self,
        images: Iterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> list[Detections]:
        """Find objects in several images, in their order, with as few requests as ``max_batch_size`` allows.

        An ImageError names the index of the image that cannot be read.
        """
        session = self._session.keeping(selection)
        return self._transport.run(session.detect_batch(self._transport.dialect, images, confidence, priority))

    def detect_many(
        self,
        images: Iterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        in_flight: int | None = None,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Results[ImageSource, Detections]:
        """Find objects in any number of images, each a request of its own, and give the results in their order.

        ``in_flight`` requests run side by side; by default as many as keep the server's batcher full, and fewer while
        its queue refuses some, which are sent again within their time. ``images`` is read as results are asked for, so
        it may be endless. Where an image failed, ``next`` raises its error, and the
        ``next`` after it goes on; see :class:`clients.many.Results`.
        """
        self._session.check(confidence, priority)
        self._session.keeping(selection)
        pace = self.pace(in_flight)
        detect = functools.partial(
            self.detect_one_of_many, pace=pace, confidence=confidence, priority=priority, selection=selection
        )
        return Results(detect, images, pace.most, pace)

    def pace(self, in_flight: int | None = None) -> Pace:
        """How many requests at a time; by default as many as keep the server's batcher full."""
        return Pace(self._session.in_flight(in_flight))

    def detect_one_of_many(
        self,
        image: ImageSource,
        index: int,
        cancellation: Cancellation,
        *,
        pace: Pace,
        confidence: float,
        priority: int,
        selection: Selection,
    ) -> Detections:
        """What ``detect_many`` does with each image, in a thread for each."""
        steps = self._session.keeping(selection).detect_one_of_many(
            self._transport.dialect, image, confidence, priority=priority, index=index, pace=pace
        )
        return self._transport.run(steps, cancellation)

    def close(self) -> None:
        """Close the connection; with shared memory, wait for the server to give that back, for 5 s at most."""
        self._transport.run(self._session.closing())
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
