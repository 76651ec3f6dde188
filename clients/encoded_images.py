"""What may be sent undecoded: JPEG, PNG and WebP, judged by their first bytes and their header.

The server's decoding step has a copy of this module, so both sides take the same images.
"""

from __future__ import annotations

from clients.errors import ImageError
from clients.images import encoded_size

FORMATS = "JPEG, PNG or WebP"


def check_encoded(encoded: bytes) -> tuple[int, int]:
    """The height and width that an image's header names; nothing is decoded.

    Raises ImageError for what is no JPEG, PNG or WebP, or names more pixels than ``clients.images.MAX_PIXELS``.
    """
    # Of what clients.images reads, these are what cameras and browsers send; fewer decoders face strangers.
    head = encoded[:12]
    known = head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (
        head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    )
    if not known:
        what = f"bytes that start {head!r}" if encoded else "none"
        raise ImageError(f"encoded image of {len(encoded)} bytes: expected {FORMATS}, got {what}")
    return encoded_size(encoded)
