"""What a client raises: each message is one line that says what was expected, what came, and what to do.

ClientError
├── AddressError             the address is not grpc://host:port or http://host:port
├── ImageError               an image cannot be read as one
├── ServerUnavailableError   nothing, or something that is not Triton in this protocol, answers at the address
├── ModelNotFoundError       the server has no model, or no version, of that name
├── ModelNotReadyError       the server knows the model, but has not loaded it
├── ContractError            the model is served, but is not a detector of the contract ``detections/1``
├── DeadlineExceededError    no answer within the time allowed
└── InferenceError           the server refused or failed the request: a full queue, an error inside the model
"""

from __future__ import annotations


class ClientError(Exception):
    """The base of everything that a client raises for its user."""


class AddressError(ClientError, ValueError):
    """The address is not ``grpc://host:port`` or ``http://host:port``."""


class ImageError(ClientError, ValueError):
    """An image cannot be read: missing, truncated, too large, not an image, or pixels of another kind."""


class ServerUnavailableError(ClientError):
    """No Triton server answers at the address in the protocol of its scheme."""


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


def one_line(text: object) -> str:
    """A message of another library on a single line."""
    return " ".join(str(text).split())
