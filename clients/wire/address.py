"""Where a server listens, and in which protocol."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from clients.errors import AddressError

SCHEMES = ("grpc", "http", "grpcs", "https")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_grpc(self) -> bool:
        """Whether the protocol is gRPC; otherwise it is HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def has_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme.endswith("s")


def address_from(url: str) -> Address:
    """Read ``grpc://host:port`` or ``http://host:port``, or the same with TLS as ``grpcs://`` and ``https://``.

    Raises AddressError for anything else.
    """
    expected = f"expected grpc://HOST:PORT or http://HOST:PORT, got {url!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError(f"{expected} ({error})") from error
    if "://" not in url:
        raise AddressError(f"{expected}: Triton listens for gRPC on 8001 and for HTTP on 8000 unless told otherwise")
    if parts.scheme not in SCHEMES:
        raise AddressError(f"{expected}: scheme {parts.scheme!r} is not one of {', '.join(SCHEMES)}")
    if not parts.hostname or not port:
        raise AddressError(f"{expected}: the {'port' if parts.hostname else 'host'} is missing")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise AddressError(f"{expected}: leave out what is not host and port")
    return Address(parts.scheme, parts.hostname, port)
