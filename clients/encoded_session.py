"""What a detector does that sends encoded images as they are, to ``NAME_jpeg`` on the server; nothing of it is I/O."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.batches import check_several
from clients.contract import Contract, contract_from_config
from clients.detections import Detections
from clients.encoded import (
    EncodedContract,
    EncodedRequest,
    encoded_contract_from_config,
    encoded_request,
    image_error,
    model_names,
)
from clients.errors import ContractError, ImageError, InferenceError, ModelNotFoundError
from clients.images import ImageSource, load_decoders
from clients.options import DEFAULT_OPTIONS, ConnectionOptions
from clients.session import CONNECT_TIMEOUT_S, DEFAULT_TIMEOUT_S, Session
from clients.wire.steps import Steps, Work
from clients.wire.transport import Dialect


class EncodedSession(Session):
    """One detector on one server, asked by the ensemble beside it."""

    def __init__(
        self,
        model: str,
        *,
        version: str | int = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        options: ConnectionOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Check the arguments; ``model`` is the detector's name, not the ensemble's."""
        if version:
            raise ValueError(
                f"expected no version with encoded images, got {version!r}: the ensemble asks the version that is "
                "served; choose that on the server"
            )
        super().__init__(model, timeout_s=timeout_s, options=options)
        self._detector = model
        # From here on, this is the model that is asked, also whether it is ready.
        self.model = model_names(model).jpeg
        self._detector_contract: Contract | None = None
        self._encoded_contract: EncodedContract | None = None

    def open(self, dialect: Dialect) -> Steps[None]:
        """Read the contracts of the ensemble and of its detector; raises what their absence or their kind means."""
        # Headers are read by the same decoders.
        yield Work(load_decoders)
        try:
            config = yield from self._config(dialect, self.model)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{error}; build {self._detector!r} with --encoded to have it") from error
        encoded = encoded_contract_from_config(config, model=self.model)
        contract = contract_from_config((yield from self._config(dialect, self._detector)), model=self._detector)
        if (encoded.names, encoded.size_hw) != (contract.names, contract.size_hw):
            raise ContractError(
                f"model {self.model!r} was built for another version of {self._detector!r}: their classes or input "
                f"sizes differ ({len(encoded.names)} classes of {encoded.size_hw}, {len(contract.names)} of "
                f"{contract.size_hw}); build it again with --encoded, and load both"
            )
        self._detector_contract, self._encoded_contract = contract, encoded
        self._contract = replace(contract, model=self.model, max_batch_size=1)

    def detect(
        self, dialect: Dialect, image: ImageSource, confidence: float, priority: int, index: int | None = None
    ) -> Steps[Detections]:
        """One image, which an ImageError names by ``index`` where one is given."""
        self.check(confidence, priority)
        return (
            yield from self._detect(
                dialect, image, confidence=confidence, priority=priority, index=index, deadline=self._deadline()
            )
        )

    def detect_batch(
        self, dialect: Dialect, images: Iterable[ImageSource], confidence: float, priority: int
    ) -> Steps[list[Detections]]:
        """Several images, one request after the other: a request has one."""
        self.check(confidence, priority)
        check_several(images)
        deadline = self._deadline()
        results: list[Detections] = []
        for index, image in enumerate(images):
            found = yield from self._detect(
                dialect, image, confidence=confidence, priority=priority, index=index, deadline=deadline
            )
            results.append(found)
        return results

    def in_flight(self, asked: int | None) -> int:
        """How many requests to have under way at a time: what fills the detector's batcher, unless told otherwise."""
        if asked is None and self._detector_contract is not None:
            return self._detector_contract.saturating_requests
        return super().in_flight(asked)

    def _config(self, dialect: Dialect, model: str) -> Steps[dict[str, Any]]:
        timeout_s = min(self._timeout_s, CONNECT_TIMEOUT_S)
        config: dict[str, Any] = yield from self._request(
            lambda left_s: dialect.model_config(model, "", left_s), dialect, timeout_s
        )
        return config

    def _detect(
        self,
        dialect: Dialect,
        image: ImageSource,
        *,
        confidence: float,
        priority: int,
        index: int | None,
        deadline: float,
    ) -> Steps[Detections]:
        assert self._encoded_contract is not None, "open() comes first"
        selection = replace(self._selection, confidence=max(confidence, self._selection.confidence))
        try:
            request: EncodedRequest = yield Work(
                functools.partial(encoded_request, image, self._encoded_contract, selection, priority=priority)
            )
            rows_N6: NDArray[np.float32] = yield from self._request(
                lambda timeout_s: dialect.infer_encoded(request, timeout_s), dialect, self._timeout_s, deadline
            )
        except ImageError as error:
            raise _named(error, index) from error
        except InferenceError as error:
            # What only shows when an image is decoded, as that it is cut off, the server finds.
            unreadable = image_error(str(error), request.file)
            if unreadable is None:
                raise
            raise _named(unreadable, index) from error
        return request.detections(rows_N6)


def _named(error: ImageError, index: int | None) -> ImageError:
    return error if index is None else ImageError(f"image {index}: {error}")
