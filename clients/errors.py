"""What a client raises: each message is one line that says what was expected, what came, and what to do.

ClientError
├── AddressError             the address is not grpc://host:port or http://host:port, or one of both with TLS
├── OptionsError             the options of the connection contradict each other, the address, or the files they name
├── ImageError               an image cannot be read as one
├── ServerUnavailableError   nothing, or something that is not Triton in this protocol, answers at the address
│   └── TlsError             the two sides do not trust each other, or one of them does not speak TLS
├── AccessDeniedError        the server wants a header that was not sent, or another value of it
├── ModelNotFoundError       the server has no model, or no version, of that name
├── ModelNotReadyError       the server knows the model, but has not loaded it
├── ContractError            the model is served, but is not a detector of the contract ``detections/1``
├── DeadlineExceededError    no answer within the time allowed
└── InferenceError           the server refused or failed the request: an error inside the model, say
    └── QueueFullError       the model's queue had no room, or kept the request for longer than it may
"""

from __future__ import annotations


class ClientError(Exception):
    """The base of everything that a client raises for its user."""

    not_accepted = False
    """Whether the server surely did not take the request, so that sending it again cannot make it run twice."""


class AddressError(ClientError, ValueError):
    """The address is not ``grpc://host:port`` or ``http://host:port``, or ``grpcs://`` or ``https://`` with TLS."""


class OptionsError(ClientError, ValueError):
    """The options of the connection contradict each other, the address, or the files that they name."""


class ImageError(ClientError, ValueError):
    """An image cannot be read: missing, truncated, too large, not an image, or pixels of another kind."""


class ServerUnavailableError(ClientError):
    """No Triton server answers at the address in the protocol of its scheme."""


class TlsError(ServerUnavailableError):
    """The two sides do not trust each other's certificates, or one of them does not speak TLS."""


class AccessDeniedError(ClientError):
    """The server restricts what was asked to those who send a header that it knows."""


class ModelNotFoundError(ClientError):
    """The server has no model, or no version, of that name."""


class ModelNotReadyError(ClientError):
    """The server knows the model, but it is not loaded."""


class ContractError(ClientError):
    """The model is served, but does not speak the contract ``detections/1``."""


class DeadlineExceededError(ClientError):
    """The server did not answer within the time allowed."""


class InferenceError(ClientError):
    """The server refused or failed a request."""


class QueueFullError(InferenceError):
    """The model's queue had no room for the request, or kept it for longer than the server's policy allows."""


def one_line(text: object) -> str:
    """A message of another library on a single line."""
    return " ".join(str(text).split())
