"""How a detector's images go to the server."""

from __future__ import annotations

import enum

from clients.encoded_session import EncodedSession
from clients.options import ConnectionOptions
from clients.session import Session


class Send(enum.StrEnum):
    """What is sent of an image."""

    PIXELS = "pixels"
    """Decoded and fitted into the model's input here: any image, and least work for the server."""
    ENCODED = "encoded"
    """A JPEG, PNG or WebP as it is, which the server decodes: least work here, and mostly the least to send."""


def session_for(
    send: Send | str, model: str, *, version: str | int, timeout_s: float, options: ConnectionOptions
) -> Session:
    """What speaks with one model; raises ValueError for arguments that contradict each other."""
    try:
        kind = Send(send)
    except ValueError as error:
        raise ValueError(f"expected send to be one of {', '.join(map(repr, map(str, Send)))}, got {send!r}") from error
    session = EncodedSession if kind is Send.ENCODED else Session
    return session(model, version=version, timeout_s=timeout_s, options=options)
