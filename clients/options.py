"""How a connection to a server is made: trust, headers, compression, time and retries."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from clients.errors import OptionsError
from clients.retry import DEFAULT_POLICY, RetryPolicy

# RFC 9110, 5.1: what the name of a header is made of.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "inference-header-content-length",
        "te",
        "transfer-encoding",
        "user-agent",
    }
)


class Compression(enum.StrEnum):
    """How requests and answers are compressed on the wire.

    Camera pictures hardly shrink while compressing them costs more than sending them within one data centre: measure
    before it is turned on.
    """

    NONE = "none"
    GZIP = "gzip"
    DEFLATE = "deflate"


LONGEST_S = 365 * 86400.0
"""No time allowed is longer: what a clock of 64-bit nanoseconds cannot hold would be over at once."""


def check_seconds(name: str, seconds: float) -> None:
    """Raise OptionsError for a time that no request can be given."""
    if not 0 < seconds <= LONGEST_S:
        raise OptionsError(f"expected {name} in seconds above 0 and at most {LONGEST_S:.0f} (365 days), got {seconds}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionOptions:
    """How to connect; the defaults are for a server that trusts its network.

    Raises OptionsError for what cannot be right whatever the server is.
    """

    root_certificates: Path | None = None
    """PEM file of the authorities that the server's certificate is checked against, for ``grpcs://`` and ``https://``.

    None: those that the system trusts over HTTPS, those that come with grpcio over gRPC.
    """
    certificate: Path | None = None
    """PEM file of this client's own certificate, for a server that asks for one (mutual TLS)."""
    private_key: Path | None = None
    """PEM file of that certificate's key, without a passphrase."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request, over gRPC as metadata with its name in lower case; never shown in a message.

    For an API that Triton restricts with ``--grpc-restricted-protocol=GROUP:KEY=VALUE`` the header is
    ``triton-grpc-protocol-KEY``, for ``--http-restricted-api=GROUP:KEY=VALUE`` it is ``KEY``, its value VALUE for both.
    """
    compression: Compression = Compression.NONE
    deadline_s: float | None = None
    """Seconds for a whole call, however many requests and retries it takes; None: each request has its own limit."""
    retry: RetryPolicy = DEFAULT_POLICY

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            has, lacks = ("certificate", "private_key") if self.certificate else ("private_key", "certificate")
            raise OptionsError(f"expected certificate and private_key together, got {has} alone: give {lacks} too")
        for name in ("root_certificates", "certificate", "private_key"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        try:
            object.__setattr__(self, "compression", Compression(self.compression))
        except ValueError as error:
            known = ", ".join(Compression)
            raise OptionsError(f"expected compression to be one of {known}, got {self.compression!r}") from error
        if self.deadline_s is not None:
            check_seconds("deadline_s", self.deadline_s)
        for header, value in self.headers.items():
            _check_header(header, value)
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))

    @property
    def uses_tls(self) -> bool:
        """Whether anything is said that only a connection with TLS can keep."""
        return self.root_certificates is not None or self.certificate is not None


DEFAULT_OPTIONS = ConnectionOptions()


def _check_header(header: str, value: str) -> None:
    # A value may be a secret: it is not quoted.
    if not isinstance(header, str) or not _HEADER_NAME.fullmatch(header):
        raise OptionsError(f"expected a header's name of letters, digits and dashes, got {header!r}")
    if header.lower() in _OWN_HEADERS or header.lower().startswith("grpc-"):
        raise OptionsError(f"header {header!r} is the connection's own: leave it out")
    if header.lower().endswith("-bin"):
        raise OptionsError(f"header {header!r} would be binary over gRPC: choose a name that does not end in -bin")
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value) or value != value.strip():
        raise OptionsError(f"expected the value of header {header!r} as printable ASCII without spaces around it")
