"""The streams as Prometheus metrics, read from their accounts when somebody asks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from clients.errors import ClientError
from clients.video.accounts import BUCKETS, GROWTH, LOWEST_S, AccountView
from clients.video.reader import SourceState, SourceStatus
from clients.video.sources import Source

if TYPE_CHECKING:
    from prometheus_client.core import Metric

HOST = "127.0.0.1"
EVERY = 14
"""Every 14th edge of the latency histogram is shown: 1.05^14 = 2, from 1 ms to over a minute."""


class StreamMetrics:
    """A collector for ``prometheus_client``: what it shows is what the accounts say at that moment."""

    def __init__(
        self,
        sources: Sequence[Source],
        views: Callable[[], list[AccountView]],
        statuses: Callable[[], list[SourceStatus]],
    ) -> None:
        """``views`` and ``statuses`` give one for each source."""
        self._names = [source.name for source in sources]
        self._views, self._statuses = views, statuses

    def collect(self) -> Iterable[Metric]:
        """All metrics, with the label ``source``."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        captured = CounterMetricFamily("yolo_stream_frames_captured", "Frames read and taken.", labels=["source"])
        frames = CounterMetricFamily(
            "yolo_stream_frames", "What became of captured frames.", labels=["source", "outcome"]
        )
        latency = HistogramMetricFamily(
            "yolo_stream_latency_seconds", "From the capture of a frame to its answer.", labels=["source"]
        )
        playing = GaugeMetricFamily("yolo_stream_playing", "1 while frames come from the source.", labels=["source"])
        opened = CounterMetricFamily("yolo_stream_opened", "Connections made, or files opened.", labels=["source"])
        for name, view, status in zip(self._names, self._views(), self._statuses(), strict=True):
            captured.add_metric([name], view.captured)
            for outcome in ("answered", "dropped", "failed"):
                frames.add_metric([name, outcome], getattr(view, outcome))
            cumulative = list(itertools.accumulate(view.latencies.counts))
            edges = [
                (f"{LOWEST_S * GROWTH**index:.4g}", float(cumulative[index])) for index in range(0, BUCKETS - 1, EVERY)
            ]
            latency.add_metric([name], [*edges, ("+Inf", float(cumulative[-1]))], sum_value=view.latencies.sum_s)
            playing.add_metric([name], status.state is SourceState.PLAYING)
            opened.add_metric([name], status.connections)
        return captured, frames, latency, playing, opened


class MetricsServer:
    """Serves the metrics over HTTP on the loopback address, until it is closed."""

    def __init__(self, collector: StreamMetrics, port: int) -> None:
        """Listen; port 0 takes a free one. Raises ClientError where that is impossible."""
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise ClientError("--metrics-port needs: pip install 'yolo-triton[video]' (prometheus-client)") from error

        registry = CollectorRegistry()
        registry.register(collector)
        try:
            self._server, self._thread = start_http_server(port, addr=HOST, registry=registry)
        except OSError as error:
            raise ClientError(
                f"cannot serve metrics on {HOST}:{port}: {error.strerror}; choose another --metrics-port"
            ) from error

    @property
    def url(self) -> str:
        """Where Prometheus finds them."""
        return f"http://{HOST}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
