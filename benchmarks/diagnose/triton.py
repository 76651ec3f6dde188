"""What a running Triton tells of itself: statistics, configuration, shared memory, metrics."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks.diagnose.evidence import Missing
from benchmarks.load.counters import Counters, counters_from
from builder.errors import ServerError
from clients.wire.address import Address

TIMEOUT_S = 5.0
_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_MEMORY = re.compile(r"^(?:TYPE_)?GPU$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """Of one model since it was loaded."""

    counters: Counters
    server_ns: int
    versions: tuple[str, ...]
    gpu_bytes: int
    """What its runtime took of GPU memory as it was loaded; 0 where Triton does not say."""


class Triton:
    """A connection to ask a server about itself, in the protocol of its address."""

    def __init__(self, address: Address) -> None:
        """Prepare to connect; nothing is asked yet."""
        if address.is_grpc:
            import tritonclient.grpc as triton

            self._as_json = {"as_json": True}
        else:
            import tritonclient.http as triton

            self._as_json = {}
        self._address = address
        self._client: Any = triton.InferenceServerClient(address.netloc, ssl=address.has_tls)

    def __enter__(self) -> Self:
        """Nothing is asked yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._client.close()

    def ready_models(self) -> list[str]:
        """Their names; raises ServerError where no Triton answers."""
        index: Any = self._ask("get_model_repository_index")
        models = index.get("models", []) if isinstance(index, dict) else index
        return sorted({each["name"] for each in models if each.get("state") == "READY"})

    def config(self, model: str) -> Mapping[str, Any]:
        """Triton's ModelConfig as a dictionary; raises ServerError."""
        answer = self._ask("get_model_config", model)
        config: Mapping[str, Any] = answer.get("config", answer)
        return config

    def version(self) -> str:
        """The version that the server says it is; raises ServerError."""
        return str(self._ask("get_server_metadata")["version"])

    def statistics(self, model: str) -> Statistics:
        """What was counted of a model, all its versions; raises ServerError."""
        answer = self._ask("get_inference_statistics", model)
        every = answer.get("model_stats", [])
        return Statistics(
            counters=counters_from(answer),
            # protobuf's JSON leaves zeros out.
            server_ns=sum(int(each.get("inference_stats", {}).get("success", {}).get("ns", 0)) for each in every),
            versions=tuple(str(each.get("version", "")) for each in every),
            gpu_bytes=sum(
                int(usage.get("byte_size", 0))
                for each in every
                for usage in each.get("memory_usage", [])
                if _MEMORY.match(str(usage.get("type", "")))
            ),
        )

    def shared_memory(self) -> dict[str, int] | Missing:
        """Bytes of each region that clients have registered."""
        regions: dict[str, int] = {}
        for kind in ("system", "cuda"):
            try:
                answer: Any = self._ask(f"get_{kind}_shared_memory_status")
            except ServerError as e:
                return Missing(f"the server does not list its regions: {e}")
            listed = answer.get("regions", {}).values() if isinstance(answer, dict) else answer
            regions |= {f"{kind} {each['name']}": int(each.get("byte_size", 0)) for each in listed}
        return regions

    def _ask(self, method: str, *arguments: str) -> dict[str, Any]:
        from tritonclient.utils import InferenceServerException

        try:
            answer: dict[str, Any] = getattr(self._client, method)(*arguments, **self._as_json)
        except (InferenceServerException, OSError) as error:
            said = error.message() if isinstance(error, InferenceServerException) else error
            raise ServerError(
                f"expected Triton at {self._address} to answer {method}, got: {' '.join(str(said).split())}; start one "
                "with: python -m builder serve, or give the address of one that runs (--url)"
            ) from error
        return answer


def pending_requests(url: str) -> dict[str, float] | Missing:
    """How many requests wait for each model now, from Triton's metrics."""
    if not url.startswith(("http://", "https://")):
        return Missing(f"--metrics-url {url} is no http:// address")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 -- checked above
            text = answer.read().decode(errors="replace")
    except (urllib.error.URLError, OSError, ValueError) as e:
        return Missing(f"no metrics at {url} ({getattr(e, 'reason', e)}): give the server's own with --metrics-url")
    return read_pending(text) or Missing(
        f"{url} has no nv_inference_pending_request_count: Triton 23.12 and later have"
    )


def read_pending(text: str) -> dict[str, float]:
    """From a page of metrics in Prometheus' text format; versions of a model together."""
    waiting: dict[str, float] = {}
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found and found["name"] == "nv_inference_pending_request_count":
            labels = dict(_LABEL.findall(found["labels"]))
            waiting[labels.get("model", "")] = waiting.get(labels.get("model", ""), 0.0) + float(found["value"])
    return waiting
