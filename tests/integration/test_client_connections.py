"""TLS, restricted APIs, compression, deadlines, retries and many at a time, against a real tritonserver."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.server import TritonServer
from clients import (
    AccessDeniedError,
    AsyncDetector,
    Compression,
    ConnectionOptions,
    DeadlineExceededError,
    Detections,
    Detector,
    ImageError,
    ModelNotFoundError,
    QueueFullError,
    RetryPolicy,
    ServerUnavailableError,
    TlsError,
)
from tests.conftest import StartServer
from tests.integration.certificates import Certificate, make_authority, make_certificate
from tests.integration.test_client import PATIENT_S, assert_found, held, picture, write_detector
from tests.waiting import wait_until

BOXES = {0: (10, 10, 50, 50), 2: (60, 20, 100, 90)}
IMAGE = picture(96, 128, BOXES)

Detect = Callable[..., Detections]


def blocking(url: str, model: str = "painted", **arguments: Any) -> Detections:
    with Detector(url, model, **arguments) as detector:
        return detector.detect(IMAGE)


def on_a_loop(url: str, model: str = "painted", **arguments: Any) -> Detections:
    async def detect() -> Detections:
        async with AsyncDetector(url, model, **arguments) as detector:
            return await detector.detect(IMAGE)

    return asyncio.run(detect())


@pytest.fixture(params=[blocking, on_a_loop])
def detect(request: pytest.FixtureRequest) -> Detect:
    made: Detect = request.param
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    repository = tmp_path_factory.mktemp("repository")
    write_detector(repository, "painted")
    write_detector(repository, "late", delay_s="0.1")
    write_detector(repository, "busy", max_batch=1, queue="default_queue_policy { max_queue_size: 1 }", delay_s="0.2")
    return triton_server(repository)


@pytest.fixture(params=["grpc", "http"])
def url(server: TritonServer, request: pytest.FixtureRequest) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


class Authorities:
    """Two authorities that do not know each other, and what they signed."""

    def __init__(self, folder: Path) -> None:
        self.ours = make_authority(folder, "ours")
        self.theirs = make_authority(folder, "theirs")
        self.server = make_certificate(folder, "server", self.ours)
        self.elsewhere = make_certificate(folder, "elsewhere", self.ours, "DNS:elsewhere.example")
        self.client = make_certificate(folder, "client", self.ours)
        self.stranger = make_certificate(folder, "stranger", self.theirs)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return Authorities(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(
    tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer, authorities: Authorities
) -> Callable[[str], str]:
    """``tls_server("--grpc-use-ssl")``: the address of a server with TLS, started once."""
    repository = tmp_path_factory.mktemp("tls")
    write_detector(repository, "painted")
    started: dict[str, str] = {}

    def start(flag: str) -> str:
        if flag not in started:
            arguments = (
                f"{flag}=true",
                f"--grpc-server-cert={authorities.server.certificate}",
                f"--grpc-server-key={authorities.server.private_key}",
                f"--grpc-root-cert={authorities.ours.certificate}",
            )
            server = triton_server(repository, extra_args=arguments)
            started[flag] = server.grpc_url.replace("grpc://", "grpcs://")
        return started[flag]

    return start


def trusting(authority: Certificate, own: Certificate | None = None) -> ConnectionOptions:
    return ConnectionOptions(
        root_certificates=authority.certificate,
        certificate=own and own.certificate,
        private_key=own and own.private_key,
    )


class TestTlsOverGrpc:
    def test_server_that_is_trusted_answers(
        self, tls_server: Callable[[str], str], authorities: Authorities, detect: Detect
    ) -> None:
        found = detect(tls_server("--grpc-use-ssl"), options=trusting(authorities.ours))
        assert_found(found, BOXES, IMAGE.shape[:2])

    def test_unknown_authority_is_refused_with_the_reason(
        self, tls_server: Callable[[str], str], authorities: Authorities, detect: Detect
    ) -> None:
        for options in (trusting(authorities.theirs), ConnectionOptions()):
            with pytest.raises(TlsError, match="certificate verify failed"):
                detect(tls_server("--grpc-use-ssl"), options=options)

    def test_client_that_the_server_knows_is_answered(
        self, tls_server: Callable[[str], str], authorities: Authorities, detect: Detect
    ) -> None:
        options = trusting(authorities.ours, authorities.client)
        assert_found(detect(tls_server("--grpc-use-ssl-mutual"), options=options), BOXES, IMAGE.shape[:2])

    def test_client_that_the_server_does_not_know_is_told(
        self, tls_server: Callable[[str], str], authorities: Authorities, detect: Detect
    ) -> None:
        for own in (None, authorities.stranger):
            with pytest.raises(TlsError, match="certificate and private_key"):
                detect(tls_server("--grpc-use-ssl-mutual"), options=trusting(authorities.ours, own))

    def test_plain_connection_to_it_is_told_of_tls(self, tls_server: Callable[[str], str], detect: Detect) -> None:
        with pytest.raises(ServerUnavailableError, match="if it wants TLS, use grpcs://"):
            detect(tls_server("--grpc-use-ssl").replace("grpcs", "grpc"))

    def test_server_without_tls_is_told_from_one_with(
        self, server: TritonServer, authorities: Authorities, detect: Detect
    ) -> None:
        for url in (server.grpc_url.replace("grpc", "grpcs"), server.http_url.replace("http", "https")):
            with pytest.raises(TlsError, match="where the server has no TLS"):
                detect(url, options=trusting(authorities.ours))


@contextmanager
def encrypting_proxy(target: str, own: Certificate, clients: Certificate | None) -> Iterator[str]:
    """A proxy that ends TLS, as tritonserver has none for HTTP; its address. ``clients`` signs theirs, where asked."""
    host, port = target.removeprefix("http://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.private_key)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    sockets: list[socket.socket] = []

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                sink.sendall(content)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve(accepted: socket.socket) -> None:
        with suppress(OSError):
            inner = context.wrap_socket(accepted, server_side=True)
            outer = socket.create_connection((host, int(port)))
            sockets.extend((inner, outer))
            threading.Thread(target=copy, args=(outer, inner), daemon=True).start()
            copy(inner, outer)

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in sockets:
                each.close()


class TestTlsOverHttp:
    def test_server_that_is_trusted_answers(
        self, server: TritonServer, authorities: Authorities, detect: Detect
    ) -> None:
        with encrypting_proxy(server.http_url, authorities.server, None) as url:
            assert_found(detect(url, options=trusting(authorities.ours)), BOXES, IMAGE.shape[:2])

    def test_unknown_authority_and_other_name_are_refused_with_the_reason(
        self, server: TritonServer, authorities: Authorities, detect: Detect
    ) -> None:
        with encrypting_proxy(server.http_url, authorities.server, None) as url:
            for options in (trusting(authorities.theirs), ConnectionOptions()):
                with pytest.raises(TlsError, match="certificate verify failed"):
                    detect(url, options=options)
        with (
            encrypting_proxy(server.http_url, authorities.elsewhere, None) as url,
            pytest.raises(TlsError, match=r"not valid for '127\.0\.0\.1'"),
        ):
            detect(url, options=trusting(authorities.ours))

    def test_server_may_ask_for_a_certificate(
        self, server: TritonServer, authorities: Authorities, detect: Detect
    ) -> None:
        with encrypting_proxy(server.http_url, authorities.server, authorities.ours) as url:
            found = detect(url, options=trusting(authorities.ours, authorities.client))
            assert_found(found, BOXES, IMAGE.shape[:2])
            with pytest.raises(ServerUnavailableError):
                detect(url, options=trusting(authorities.ours))


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    repository = tmp_path_factory.mktemp("restricted")
    write_detector(repository, "painted")
    return triton_server(
        repository,
        extra_args=(
            "--grpc-restricted-protocol=inference,model-config:token=sesam",
            "--http-restricted-api=inference,model-config:token=sesam",
        ),
    )


class TestRestrictedApi:
    def test_token_opens_it(self, restricted: TritonServer, detect: Detect) -> None:
        for url, header in ((restricted.grpc_url, "Triton-Grpc-Protocol-Token"), (restricted.http_url, "token")):
            found = detect(url, options=ConnectionOptions(headers={header: "sesam"}))
            assert_found(found, BOXES, IMAGE.shape[:2])

    @pytest.mark.parametrize("value", [None, "simsalabim"])
    def test_without_it_the_header_is_named_and_no_value(
        self, restricted: TritonServer, detect: Detect, value: str | None
    ) -> None:
        for url, header in ((restricted.grpc_url, "triton-grpc-protocol-token"), (restricted.http_url, "token")):
            headers = {} if value is None else {header: value}
            with pytest.raises(AccessDeniedError, match=f"expecting header '{header}'") as caught:
                detect(url, options=ConnectionOptions(headers=headers))
            assert "sesam" not in str(caught.value)
            assert "simsalabim" not in str(caught.value)


@pytest.mark.parametrize("compression", list(Compression))
def test_compression_changes_nothing_but_the_wire(url: str, detect: Detect, compression: Compression) -> None:
    assert detect(url, options=ConnectionOptions(compression=compression)) == blocking(url)


class TestAsyncDetector:
    def test_it_answers_as_the_blocking_one_does(self, url: str) -> None:
        images = [picture(100 + 20 * index, 200, {index % 3: (5, 10, 60, 50 + index)}) for index in range(9)]

        async def run() -> tuple[list[Detections], list[Detections], list[Detections]]:
            async with AsyncDetector(url, "painted") as detector:
                assert await detector.is_ready()
                together = await asyncio.gather(*(detector.detect(image) for image in images))
                many = [found async for found in detector.detect_many(images, in_flight=3)]
                return together, await detector.detect_batch(images), many

        with Detector(url, "painted") as detector:
            expected = [detector.detect(image) for image in images]
        assert asyncio.run(run()) == (expected, expected, expected)

    def test_source_may_be_asynchronous(self, url: str) -> None:
        async def camera() -> AsyncIterator[np.ndarray]:
            for _ in range(10):
                await asyncio.sleep(0.001)
                yield IMAGE

        async def run() -> int:
            async with AsyncDetector(url, "painted") as detector:
                return len([found async for found in detector.detect_many(camera())])

        assert asyncio.run(run()) == 10

    def test_task_that_is_cancelled_leaves_the_detector_usable(self, server: TritonServer, url: str) -> None:
        async def run() -> Detections:
            async with AsyncDetector(url, "late") as detector:
                with held(server, "late") as entered:
                    task = asyncio.create_task(detector.detect(IMAGE))
                    async with asyncio.timeout(PATIENT_S):
                        while not entered.exists():
                            await asyncio.sleep(0.02)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                return await detector.detect(IMAGE)

        assert_found(asyncio.run(run()), BOXES, IMAGE.shape[:2])

    def test_missing_model_and_closed_detector_say_so(self, url: str) -> None:
        async def run() -> None:
            with pytest.raises(ModelNotFoundError, match="no model 'paint'"):
                await AsyncDetector(url, "paint").connect()
            async with AsyncDetector(url, "painted") as detector:
                pass
            with pytest.raises(ServerUnavailableError, match=r"closed by close\(\)"):
                await detector.detect(IMAGE)

        asyncio.run(run())

    def test_late_answer_is_a_deadline(self, server: TritonServer, url: str) -> None:
        with held(server, "late"), pytest.raises(DeadlineExceededError, match="within 2 s"):
            on_a_loop(url, "late", timeout_s=2)


class TestDetectMany:
    def test_many_are_answered_in_order(self, url: str) -> None:
        images = [picture(96, 128, {index % 3: (index, 5, index + 40, 90)}) for index in range(60)]
        with Detector(url, "painted") as detector:
            for index, found in enumerate(detector.detect_many(iter(images))):
                assert found.xyxy.tolist() == [[index, 5, index + 40, 90]]
                assert found.class_id.tolist() == [index % 3]
        assert index == 59

    def test_source_may_be_endless(self, url: str) -> None:
        with Detector(url, "painted") as detector, detector.detect_many(itertools.repeat(IMAGE)) as results:
            assert len(list(itertools.islice(results, 20))) == 20

    def test_bad_image_fails_at_its_place_by_its_index(self, url: str) -> None:
        with Detector(url, "painted") as detector:
            results = detector.detect_many([IMAGE, b"<html>", IMAGE])
            assert len(next(results)) == 2
            with pytest.raises(ImageError, match=r"^image 1: .*not an image"):
                next(results)
            assert len(next(results)) == 2

    def test_closing_does_not_wait_for_answers(self, url: str) -> None:
        with Detector(url, "late", timeout_s=60) as detector:
            results = detector.detect_many(itertools.repeat(IMAGE), in_flight=30)
            next(results)
            results.close()
            with pytest.raises(StopIteration):
                next(results)
            assert len(detector.detect(IMAGE)) == 2

    def test_default_in_flight_fits_the_servers_queue(self, url: str) -> None:
        with Detector(url, "busy") as detector:
            assert [len(found) for found in detector.detect_many([IMAGE] * 6)] == [2] * 6


class TestRetries:
    def test_patience_gets_every_request_through_a_full_queue(self, url: str) -> None:
        patient = ConnectionOptions(retry=RetryPolicy(attempts=1000, longest_pause_s=0.3))
        with Detector(url, "busy", timeout_s=60, options=patient) as detector, ThreadPoolExecutor(6) as pool:
            assert [len(found) for found in pool.map(detector.detect, [IMAGE] * 6)] == [2] * 6

    def test_full_queue_is_named(self, server: TritonServer, url: str) -> None:
        def outcome() -> str:
            try:
                detector.detect(IMAGE)
            except QueueFullError as error:
                return str(error)
            return ""

        once = ConnectionOptions(retry=RetryPolicy(attempts=1))
        with Detector(url, "busy", options=once) as detector, ThreadPoolExecutor(6) as pool:
            with held(server, "busy"):
                calls = [pool.submit(outcome) for _ in range(6)]
                wait_until(lambda: any(map(Future.done, calls)))
            refused = [call.result() for call in calls if call.result()]
        assert refused
        assert all("has no room in the queue of 'busy'" in each for each in refused)


class TestReady:
    def test_server_that_serves_the_model_is_ready(self, url: str) -> None:
        with Detector(url, "painted") as detector:
            assert detector.is_ready()
