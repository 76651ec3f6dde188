"""How a detector's images go to the server."""

from __future__ import annotations

import enum

from clients.encoded_session import EncodedSession
from clients.memory.regions import MemoryKind
from clients.memory.session import SharedSession
from clients.options import ConnectionOptions
from clients.session import Session


class Send(enum.StrEnum):
    """What is sent of an image."""

    PIXELS = "pixels"
    """Decoded and fitted into the model's input here: any image, and least work for the server."""
    ENCODED = "encoded"
    """A JPEG, PNG or WebP as it is, which the server decodes: least work here, and mostly the least to send."""
    SHARED_MEMORY = "shared-memory"
    """As PIXELS, by memory that a server on this machine maps; in the requests, with a warning, where it refuses."""
    CUDA_SHARED_MEMORY = "cuda-shared-memory"
    """The same by memory of this machine's first GPU; never run on one yet."""


def session_for(
    send: Send | str, url: str, model: str, *, version: str | int, timeout_s: float, options: ConnectionOptions
) -> Session:
    """What speaks with one model; raises ValueError for arguments that contradict each other."""
    try:
        kind = Send(send)
    except ValueError as error:
        raise ValueError(f"expected send to be one of {', '.join(map(repr, map(str, Send)))}, got {send!r}") from error
    match kind:
        case Send.ENCODED:
            return EncodedSession(model, version=version, timeout_s=timeout_s, options=options)
        case Send.SHARED_MEMORY | Send.CUDA_SHARED_MEMORY:
            memory = MemoryKind.SYSTEM if kind is Send.SHARED_MEMORY else MemoryKind.CUDA
            return SharedSession(model, url=url, kind=memory, version=version, timeout_s=timeout_s, options=options)
        case Send.PIXELS:
            return Session(model, version=version, timeout_s=timeout_s, options=options)
