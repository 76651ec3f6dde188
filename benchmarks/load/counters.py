"""What Triton counts of a model, over either protocol."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks.load.points import ServerTimes
from builder.errors import ServerError
from clients.errors import one_line
from clients.wire.address import Address

_Key = TypeVar("_Key")
_TIMEOUT_S = 30.0
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """Sums since the model was loaded, of all its versions."""

    requests: int = 0
    """Answered without an error."""
    failed: int = 0
    parts_ns: Mapping[str, int]
    """Of all requests, by the names of ``ServerTimes``."""
    executions: Mapping[int, int]
    """By the number of images in them."""
    infer_ns: Mapping[int, int]
    """Of all executions, by the number of images in them."""

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            requests=self.requests - earlier.requests,
            failed=self.failed - earlier.failed,
            parts_ns=_difference(self.parts_ns, earlier.parts_ns),
            executions=_difference(self.executions, earlier.executions),
            infer_ns=_difference(self.infer_ns, earlier.infer_ns),
        )

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            requests=self.requests + other.requests,
            failed=self.failed + other.failed,
            parts_ns=_sum(self.parts_ns, other.parts_ns),
            executions=_sum(self.executions, other.executions),
            infer_ns=_sum(self.infer_ns, other.infer_ns),
        )

    @property
    def server_ms(self) -> ServerTimes:
        """Means per request."""
        return ServerTimes(**{part: self.parts_ns.get(part, 0) / 1e6 / max(self.requests, 1) for part in _PARTS})

    @property
    def batches(self) -> dict[int, int]:
        """Executions by the number of images in them, of the sizes that there were."""
        return {size: count for size, count in sorted(self.executions.items()) if count}

    @property
    def service_ms(self) -> dict[int, float]:
        """The mean compute_infer of an execution by its number of images."""
        return {size: self.infer_ns[size] / 1e6 / count for size, count in self.batches.items()}


NOTHING = Counters(parts_ns={}, executions={}, infer_ns={})


class Statistics:
    """Asks a server for a model's statistics and configuration; one thread at a time, ``close`` it."""

    def __init__(self, address: Address) -> None:
        """Prepare to connect; nothing is asked yet."""
        self._address = address
        self._grpc: Any = None
        if address.is_grpc:
            import tritonclient.grpc as triton

            self._grpc = triton.InferenceServerClient(address.netloc, ssl=address.has_tls)

    def __enter__(self) -> Self:
        """Nothing is asked yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._grpc:
            self._grpc.close()

    def counters(self, model: str) -> Counters:
        """Of the model; raises ServerError where the server does not tell."""
        return counters_from(self._ask("get_inference_statistics", f"/models/{model}/stats", model))

    def model_config(self, model: str) -> dict[str, Any]:
        """Triton's ModelConfig as a dictionary; raises ServerError where the server does not tell."""
        answer = self._ask("get_model_config", f"/models/{model}/config", model)
        # gRPC has it in a message of its own.
        config: dict[str, Any] = answer.get("config", answer)
        return config

    def server_version(self) -> str:
        """The version that the server says it is."""
        return str(self._ask("get_server_metadata", "")["version"])

    def _ask(self, method: str, path: str, *arguments: str) -> dict[str, Any]:
        try:
            return self._over_grpc(method, arguments) if self._grpc else self._over_http(path)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(
                f"expected {self._address} to answer {method}({', '.join(arguments)}), got: {error}; is a server "
                "running there, and has it that model?"
            ) from error

    def _over_grpc(self, method: str, arguments: Sequence[str]) -> dict[str, Any]:
        from tritonclient.utils import InferenceServerException

        try:
            answer: dict[str, Any] = getattr(self._grpc, method)(*arguments, as_json=True, client_timeout=_TIMEOUT_S)
        except InferenceServerException as error:
            raise OSError(one_line(error.message())) from error
        return answer

    def _over_http(self, path: str) -> dict[str, Any]:
        # Not tritonclient's: its connections stay with the thread that made them.
        kind = http.client.HTTPSConnection if self._address.has_tls else http.client.HTTPConnection
        with contextlib.closing(kind(self._address.netloc, timeout=_TIMEOUT_S)) as connection:
            connection.request("GET", f"/v2{path}")
            response = connection.getresponse()
            body = response.read()
            if response.status != http.client.OK:
                raise OSError(one_line(f"HTTP {response.status}: {body.decode(errors='replace')}"))
            answer: dict[str, Any] = json.loads(body)
            return answer


def counters_from(answer: Mapping[str, Any]) -> Counters:
    """From the answer to ``get_inference_statistics``, whose numbers are text over gRPC."""
    total = NOTHING
    for stats in answer.get("model_stats", []):
        times, batches = stats.get("inference_stats", {}), stats.get("batch_stats", [])
        total += Counters(
            requests=_of(times, "success", "count"),
            failed=_of(times, "fail", "count"),
            parts_ns={part: _of(times, part, "ns") for part in _PARTS},
            executions={int(each["batch_size"]): _of(each, "compute_infer", "count") for each in batches},
            infer_ns={int(each["batch_size"]): _of(each, "compute_infer", "ns") for each in batches},
        )
    return total


def _of(stats: Mapping[str, Any], part: str, number: str) -> int:
    # protobuf's JSON leaves zeros out.
    return int(stats.get(part, {}).get(number, 0))


def _sum(one: Mapping[_Key, int], other: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {*one, *other}}


def _difference(now: Mapping[_Key, int], earlier: Mapping[_Key, int]) -> dict[_Key, int]:
    return {key: value - earlier.get(key, 0) for key, value in now.items()}
