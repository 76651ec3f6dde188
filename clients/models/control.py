"""Loads, unloads and switches the models of a server in explicit control mode, over gRPC and HTTP.

    tritonserver --model-control-mode=explicit --load-model=NAME ...

A server in any other mode refuses with ControlModeError, and a model that does not load raises ModelNotReadyError with
the server's reason; what it served before, it goes on serving.

Where requests are being answered, load over gRPC: while tritonserver loads a model that was asked for over HTTP, most
of its HTTP connections stand still (seen with 2.51; triton-inference-server's server issue 8958).
"""

from __future__ import annotations

import http.client
import json
import time
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote

from clients.errors import (
    DeadlineExceededError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    one_line,
)
from clients.options import DEFAULT_OPTIONS, ConnectionOptions, check_seconds
from clients.wire.address import Address
from clients.wire.failures import ModelState, connection_closed, model_not_served, refused
from clients.wire.grpc_dialect import GrpcDialect
from clients.wire.http_dialect import HttpDialect
from clients.wire.steps import GrpcCall, HttpCall, HttpReply, Pause, RpcStatusError, Steps
from clients.wire.transport import Cancellation, CancelledByCallerError, connect

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 900.0
"""A model that compiles an engine when it is loaded takes minutes."""
POLL_S = 0.1

# What tritonserver says (core's repository manager, 2.51 to 2.73); the first also where no polling is on.
_NOT_EXPLICIT = "explicit model load / unload is not allowed"
_NO_SUCH_VERSION = "at least one version must be available under the version policy"
_GOING = frozenset({"READY", "LOADING", "UNLOADING"})


class ControlModeError(InferenceError):
    """The server does not load and unload models on request."""


class _RefusalError(Exception):
    """The server said no; the text is its own."""


class ModelControl:
    """What a server has, and how to change it; it may be shared by several threads.

    ``url`` and ``options`` are those of Detector. ``timeout_s`` is the time that each change may take. Close it, or
    use it in a ``with`` statement.
    """

    def __init__(
        self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, options: ConnectionOptions = DEFAULT_OPTIONS
    ) -> None:
        """Prepare the connection, which its first use opens; raises AddressError and OptionsError."""
        check_seconds("timeout_s", timeout_s)
        self._timeout_s = timeout_s
        self._transport = connect(url, options)
        self._cancellation = Cancellation()
        address = self._transport.address
        self._address = address
        self._repository: _Repository = _GrpcRepository(address) if address.is_grpc else _HttpRepository(address)

    def models(self) -> list[ModelState]:
        """Every model of the repository, with the versions that the server has loaded or tried to load.

        A model that it has not touched has one entry, with an empty version and state.
        """
        return sorted(self._run(self._repository.index(self._timeout_s)), key=_by_name_and_number)

    def versions(self, model: str) -> list[ModelState]:
        """The entries of one model; raises ModelNotFoundError where the repository has none of that name."""
        index = self.models()
        if entries := [entry for entry in index if entry.name == model]:
            return entries
        raise model_not_served(self._address, model, "", index)

    def load(self, model: str) -> None:
        """Load a model, or load it again where its files have changed; returns when it is ready.

        Raises ModelNotFoundError, ModelNotReadyError where it cannot be loaded, and ControlModeError.
        """
        self._load(model, None)

    def unload(self, model: str) -> None:
        """Have a model unloaded: requests that the server has taken are still answered.

        Returns when the server has agreed, see ``wait_until_unloaded``. Raises ModelNotFoundError, ControlModeError.
        """
        self.versions(model)
        try:
            self._run(self._repository.change("unload", model, None, self._timeout_s))
        except _RefusalError as failure:
            raise refused(self._address, model, failure) from failure

    def wait_until_unloaded(self, model: str) -> None:
        """Return when no version of a model holds memory any more; raises DeadlineExceededError."""
        deadline = time.monotonic() + self._timeout_s
        while going := [entry for entry in self.versions(model) if entry.state in _GOING]:
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"model {model!r} at {self._address} is not unloaded after {self._timeout_s:g} s: "
                    f"version {going[0].version} is {going[0].state}; read the server's log"
                )
            self._run(_pause())

    def use(self, model: str, version: int) -> None:
        """Serve this version of a loaded model, and no other; returns when it is ready.

        The configuration in force is loaded again with another version policy. The old version answers until the new
        one is ready, and stays where that fails. It lasts until the model is unloaded: loaded again after that, it
        follows its own configuration. Raises ModelNotFoundError for a version that the repository does not have,
        ModelNotReadyError where the model is not loaded or the version cannot be, and ControlModeError.
        """
        if version < 1:
            raise ValueError(f"expected a version from 1, got {version}")
        config = self._run(self._repository.model_config(model, "", self._timeout_s))
        config["version_policy"] = {"specific": {"versions": [version]}}
        try:
            self._load(model, json.dumps(config))
        except ModelNotReadyError as error:
            if _NO_SUCH_VERSION not in str(error):
                raise
            served = ", ".join(entry.version for entry in self.versions(model) if entry.state == "READY")
            raise ModelNotFoundError(
                f"model {model!r} at {self._address} has no version {version} in its repository; it serves: {served}"
            ) from error

    def close(self) -> None:
        """Close the connection; what another thread waits for ends with ServerUnavailableError."""
        self._cancellation.cancel()
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        try:
            return self._transport.run(steps, self._cancellation)
        except CancelledByCallerError as error:
            raise connection_closed(self._address) from error

    def _load(self, model: str, config: str | None) -> None:
        try:
            self._run(self._repository.change("load", model, config, self._timeout_s))
        except _RefusalError as failure:
            # Triton fails alike for a model that it does not have and for one that it cannot read.
            self.versions(model)
            raise ModelNotReadyError(
                f"model {model!r} at {self._address} cannot be loaded: {one_line(failure)}; read the server's log"
            ) from failure
        except DeadlineExceededError as error:
            raise DeadlineExceededError(
                f"model {model!r} at {self._address} is not ready after {self._timeout_s:g} s: the server may go on "
                "loading it; see python -m clients models, or allow more time (timeout_s, --timeout)"
            ) from error


class _Repository(Protocol):
    """What to say to a server about its models; ``change`` raises _RefusalError with the server's words."""

    def index(self, timeout_s: float) -> Steps[list[ModelState]]: ...

    def change(self, verb: str, model: str, config: str | None, timeout_s: float) -> Steps[None]: ...

    def model_config(self, model: str, version: str, timeout_s: float) -> Steps[dict[str, Any]]: ...


class _GrpcRepository(GrpcDialect):
    """Triton's model repository extension over gRPC."""

    def index(self, timeout_s: float) -> Steps[list[ModelState]]:
        message = self._messages.RepositoryIndexRequest().SerializeToString()
        answer = yield from self._call("RepositoryIndex", message, "the list of models", "", timeout_s)
        models = self._messages.RepositoryIndexResponse.FromString(answer).models
        return [ModelState(model.name, model.version, model.state, model.reason) for model in models]

    def change(self, verb: str, model: str, config: str | None, timeout_s: float) -> Steps[None]:
        method = f"RepositoryModel{verb.capitalize()}"
        request = getattr(self._messages, f"{method}Request")(model_name=model)
        if config is not None:
            request.parameters["config"].string_param = config
        try:
            yield GrpcCall(method, request.SerializeToString(), timeout_s)
        except RpcStatusError as failure:
            if _NOT_EXPLICIT in failure.details:
                raise _not_explicit(self.address, verb, model) from failure
            if failure.code in {"INTERNAL", "INVALID_ARGUMENT"}:
                raise _RefusalError(failure.details) from failure
            raise (yield from self._error(failure, model, "", timeout_s)) from failure


class _HttpRepository(HttpDialect):
    """Triton's model repository extension over HTTP."""

    def index(self, timeout_s: float) -> Steps[list[ModelState]]:
        reply: HttpReply = yield HttpCall("POST", "/v2/repository/index", timeout_s)
        if reply.status != http.client.OK:
            raise (yield from self._error(reply, "the list of models", ""))
        return [
            ModelState(entry["name"], entry.get("version", ""), entry.get("state", ""), entry.get("reason", ""))
            for entry in self._json(reply)
        ]

    def change(self, verb: str, model: str, config: str | None, timeout_s: float) -> Steps[None]:
        path = f"/v2/repository/models/{quote(model, safe='')}/{verb}"
        body = (json.dumps({"parameters": {"config": config}}).encode(),) if config is not None else ()
        reply: HttpReply = yield HttpCall("POST", path, timeout_s, body=body)
        if reply.status == http.client.OK:
            return
        text = self._text(reply)
        if _NOT_EXPLICIT in text:
            raise _not_explicit(self.address, verb, model)
        error = yield from self._error(reply, model, "")
        # The plain one: the server's word on this model, not a restricted API or a server that stops.
        raise _RefusalError(text) if type(error) is InferenceError else error


def _not_explicit(address: Address, verb: str, model: str) -> ControlModeError:
    return ControlModeError(
        f"{address} does not {verb} {model!r} on request, it is not in explicit control mode: start it with "
        "tritonserver --model-control-mode=explicit --load-model=NAME"
    )


def _pause() -> Steps[None]:
    yield Pause(POLL_S)


def _by_name_and_number(entry: ModelState) -> tuple[str, int]:
    return entry.name, int(entry.version) if entry.version.isdecimal() else 0
