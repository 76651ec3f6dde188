"""The gateway over real HTTP, in front of a detector whose answers are known."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clients.detections import Detections
from clients.errors import ClientError, QueueFullError
from clients.images import ImageSource, Pixels, read_pixels
from tests.waiting import eventually

pytest.importorskip("graphql", reason="graphql-core is not installed")
from clients.gateway.schema import MAX_DETECTS, MAX_QUERY_CHARACTERS, SDL, Gateway
from clients.gateway.server import GatewayServer, Limits

NAMES = ("person", "car", "dog")
MAX_BODY = 300_000
DETECT = "query($image: Image!) { detect(image: $image) { count } }"


class KnownDetector:
    """Finds a person in the left half, a car in the right one, and a faint dog in the middle of any picture."""

    model = "known"
    names = NAMES
    size = (48, 64)

    def __init__(self) -> None:
        self.asked = 0
        self.is_full = False
        self.is_ready = True
        self.hold = threading.Event()
        self.hold.set()

    def detect(self, image: ImageSource, confidence: float) -> Detections:
        assert self.hold.wait(60)
        self.asked += 1
        if self.is_full:
            raise QueueFullError("no room in the queue")
        pixels = read_pixels(image)
        assert isinstance(pixels, Pixels)
        width, height = pixels.width, pixels.height
        boxes = [[0, 0, width / 2, height], [width / 2, 0, width, height], [width / 4, 0, 3 * width / 4, height]]
        found = Detections(np.array(boxes, np.float32), np.array([0.9, 0.8, 0.3], np.float32), np.arange(3), NAMES)
        return found.filter(confidence)


class Served:
    """A gateway that listens, and a plain client of it."""

    def __init__(self, detector: KnownDetector, body_timeout_s: float = 30.0) -> None:
        self.detector = detector
        self.server: GatewayServer
        self._body_timeout_s = body_timeout_s
        self.port = 0
        self._stop = asyncio.Event()
        listens = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listens)))
        self._thread.start()
        assert listens.wait(60)

    async def _serve(self, listens: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        gateway = Gateway(self.detector, workers=2, max_pixels=1_000_000)
        limits = Limits(max_body_bytes=MAX_BODY, max_requests=4, body_timeout_s=self._body_timeout_s)
        self.server = GatewayServer(gateway, limits, lambda: self.detector.is_ready)
        async with self.server.listening("127.0.0.1", 0) as address:
            self.port = int(address.rpartition(":")[2])
            listens.set()
            await self._stop.wait()
        gateway.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json else content.decode()

    def post(self, body: bytes, content_type: str = "application/json", **headers: str) -> tuple[int, Any]:
        return self.request("POST", "/graphql", body, Content_Type=content_type, **headers)

    def ask(self, query: str, **variables: Any) -> tuple[int, Any]:
        return self.post(json.dumps({"query": query, "variables": variables}).encode())

    def still_works(self) -> bool:
        return self.ask(DETECT, image=text_of(picture())) == (200, {"data": {"detect": {"count": 3}}})


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served(KnownDetector())
    yield served
    served.close()


@pytest.fixture(autouse=True)
def _as_new(served: Served) -> None:
    served.detector.is_full = False
    served.detector.is_ready = True


def picture(width: int = 100, height: int = 50, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return file.getvalue()


def text_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def multipart(operations: Any, places: Any, files: dict[str, bytes]) -> tuple[bytes, str]:
    parts = [("operations", "", json.dumps(operations).encode()), ("map", "", json.dumps(places).encode())]
    parts += [(name, '; filename="a.png"', content) for name, content in files.items()]
    body = b"".join(
        b'--line\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), file.encode(), content)
        for name, file, content in parts
    )
    return body + b"--line--\r\n", "multipart/form-data; boundary=line"


class TestAnswers:
    def test_only_the_fields_that_are_asked_for_come(self, served: Served) -> None:
        query = 'query($image: Image!) { detect(image: $image) { any(class: "person") } }'
        assert served.ask(query, image=text_of(picture())) == (200, {"data": {"detect": {"any": True}}})

    def test_every_field_has_its_value(self, served: Served) -> None:
        query = """query($image: Image!) {
          model { name classes width height }
          detect(image: $image) { width height count any detections { class classId confidence xyxy } }
        }"""
        status, answer = served.ask(query, image=text_of(picture()))
        assert status == 200
        assert answer["data"]["model"] == {"name": "known", "classes": list(NAMES), "width": 64, "height": 48}
        assert answer["data"]["detect"] == {
            "width": 100,
            "height": 50,
            "count": 3,
            "any": True,
            "detections": [
                {"class": "person", "classId": 0, "confidence": 0.9, "xyxy": [0.0, 0.0, 50.0, 50.0]},
                {"class": "car", "classId": 1, "confidence": 0.8, "xyxy": [50.0, 0.0, 100.0, 50.0]},
                {"class": "dog", "classId": 2, "confidence": 0.3, "xyxy": [25.0, 0.0, 75.0, 50.0]},
            ],
        }

    @pytest.mark.parametrize(
        ("arguments", "classes"),
        [
            ('classes: ["car", "dog"]', ["car", "dog"]),
            ("classes: []", []),
            ("confidence: 0.5", ["person", "car"]),
            ("confidence: 0", ["person", "car", "dog"]),
            ("region: {x1: 0, y1: 0, x2: 51, y2: 50}", ["person", "dog"]),
            ("max: 1", ["person"]),
            ("max: 0", []),
            ('classes: ["dog", "car"], max: 1, confidence: 0.1', ["car"]),
            ("classes: null, region: null, max: null", ["person", "car", "dog"]),
        ],
    )
    def test_selection_is_applied(self, served: Served, arguments: str, classes: list[str]) -> None:
        query = f"query($image: Image!) {{ detect(image: $image, {arguments}) {{ count any detections {{ class }} }} }}"
        status, answer = served.ask(query, image=text_of(picture()))
        assert status == 200
        assert answer["data"]["detect"] == {
            "count": len(classes),
            "any": bool(classes),
            "detections": [{"class": name} for name in classes],
        }

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
    def test_every_kind_of_picture_is_read(self, served: Served, kind: str) -> None:
        query = "query($image: Image!) { detect(image: $image) { width height } }"
        status, answer = served.ask(query, image=text_of(picture(60, 40, kind)))
        assert (status, answer) == (200, {"data": {"detect": {"width": 60, "height": 40}}})

    def test_files_are_uploaded_without_base64(self, served: Served) -> None:
        query = "query($a: Image!, $b: Image!) { a: detect(image: $a) { width } b: detect(image: $b) { width } }"
        body, kind = multipart(
            {"query": query, "variables": {"a": None, "b": None}},
            {"0": ["variables.a"], "1": ["variables.b"]},
            {"0": picture(10, 10), "1": picture(20, 20)},
        )
        assert served.post(body, kind) == (200, {"data": {"a": {"width": 10}, "b": {"width": 20}}})

    def test_operation_is_chosen_by_its_name(self, served: Served) -> None:
        query = "query a { model { name } } query b { model { width } }"
        asked = {"query": query, "operationName": "b"}
        assert served.post(json.dumps(asked).encode()) == (200, {"data": {"model": {"width": 64}}})

    def test_schema_can_be_read(self, served: Served) -> None:
        status, text = served.request("GET", "/schema")
        assert (status, text.strip()) == (200, SDL.strip())

    def test_health_follows_the_server(self, served: Served) -> None:
        assert served.request("GET", "/health/live") == (200, {"status": "live"})
        assert served.request("GET", "/health/ready") == (200, {"status": "ready"})
        served.detector.is_ready = False
        status, answer = served.request("GET", "/health/ready")
        assert (status, len(answer["errors"])) == (503, 1)
        assert served.request("GET", "/health/live")[0] == 200


class TestErrors:
    def message(self, answer: Any) -> str:
        (error,) = answer["errors"]
        assert "\n" not in error["message"]
        return str(error["message"])

    @pytest.mark.parametrize(
        ("arguments", "message", "code"),
        [
            ('classes: ["cat"]', "no class 'cat', the model has: person, car, dog", "ARGUMENT"),
            ("confidence: 1.5", "expected a confidence from 0 to 1, got 1.5", "ARGUMENT"),
            ("max: -1", "expected a maximum of 0 or more, got -1", "ARGUMENT"),
            ("region: {x1: 9, y1: 0, x2: 3, y2: 5}", "expected a region x1 y1 x2 y2", "ARGUMENT"),
        ],
    )
    def test_wrong_argument_is_one_line_and_asks_no_server(
        self, served: Served, arguments: str, message: str, code: str
    ) -> None:
        asked = served.detector.asked
        query = f"query($image: Image!) {{ detect(image: $image, {arguments}) {{ count }} }}"
        status, answer = served.ask(query, image=text_of(picture()))
        assert (status, answer["data"]) == (200, {"detect": None})
        assert self.message(answer).startswith(message)
        assert answer["errors"][0]["extensions"] == {"code": code}
        assert served.detector.asked == asked

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (text_of(b"<html>"), "not an image that can be read"),
            (text_of(picture()[:60]), "truncated or damaged"),
            (text_of(b""), "the file is empty"),
            ("data:image/png;base64,AAAA", "expected an image as base64"),
            ("not base64!", "expected an image as base64"),
            ("ÄÖÜ", "expected an image as base64"),
            (7, "expected an image as base64 text or an uploaded file, got int"),
            ([text_of(picture())], "got list"),
            (text_of(picture(1001, 1000)), "1001x1000 pixels are more than this gateway's limit of 1 megapixels"),
        ],
    )
    def test_what_is_no_picture_is_one_line(self, served: Served, image: Any, message: str) -> None:
        status, answer = served.ask(DETECT, image=image)
        assert (status, answer["data"]) == (200, {"detect": None})
        assert message in self.message(answer)
        assert answer["errors"][0]["extensions"] == {"code": "IMAGE"}

    def test_bad_picture_does_not_fail_the_good_one_beside_it(self, served: Served) -> None:
        query = "query($a: Image!, $b: Image!) { a: detect(image: $a) { count } b: detect(image: $b) { count } }"
        status, answer = served.ask(query, a=text_of(b"junk"), b=text_of(picture()))
        assert (status, answer["data"]) == (200, {"a": None, "b": {"count": 3}})
        assert answer["errors"][0]["path"] == ["a"]

    def test_unknown_class_of_any_does_not_fail_the_rest(self, served: Served) -> None:
        query = 'query($image: Image!) { detect(image: $image) { count any(class: "cat") } }'
        status, answer = served.ask(query, image=text_of(picture()))
        assert (status, answer["data"]) == (200, {"detect": {"count": 3, "any": None}})
        assert "no class 'cat'" in self.message(answer)

    def test_refusal_of_the_server_has_its_own_code(self, served: Served) -> None:
        served.detector.is_full = True
        status, answer = served.ask(DETECT, image=text_of(picture()))
        assert (status, self.message(answer)) == (200, "no room in the queue")
        assert answer["errors"][0]["extensions"] == {"code": "QUEUE_FULL"}

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("", "Syntax Error"),
            ("{", "Syntax Error"),
            ("{ cats }", "Cannot query field 'cats'"),
            ("mutation { detect }", "mutation"),
            ("subscription { detect }", "subscription"),
            ("{ detect { count } }", "Argument 'Query.detect(image:)' of type 'Image!' is required"),
            ("query($image: Image!) { detect(image: $image) }", "must have a selection of subfields"),
            ("{ __schema { types { name } } }", "introspection"),
            ("query a { model { name } } query b { model { name } }", "operation"),
            (DETECT, "$image"),
            ("{ model { ...f } } fragment f on Model { ...f }", "Cannot spread fragment"),
        ],
    )
    def test_query_that_cannot_be_run_is_refused(self, served: Served, query: str, message: str) -> None:
        status, answer = served.ask(query)
        assert status == 400
        assert any(message in error["message"] for error in answer["errors"])

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            (b"", "application/json", 400),
            (b"junk", "application/json", 400),
            (b"[]", "application/json", 400),
            (b"null", "application/json", 400),
            (b"{}", "application/json", 400),
            (b'{"query": 7}', "application/json", 400),
            (b'{"query": "{model{name}}", "variables": []}', "application/json", 400),
            (b'{"query": "{model{name}}", "variables": {"a": NaN}}', "application/json", 400),
            (b'{"query": "{model{name}}", "operationName": 1}', "application/json", 400),
            (b'[{"query": "{model{name}}"}]', "application/json", 400),
            (b"\xff\xfe{", "application/json", 400),
            (b"[" * 200_000, "application/json", 400),
            (b'{"query": ' + b"1" * 200_000 + b"}", "application/json", 400),
            (b"{model{name}}", "application/graphql", 415),
            (b"query=%7Bmodel%7Bname%7D%7D", "application/x-www-form-urlencoded", 415),
            (b"junk", "multipart/form-data; boundary=line", 400),
            (b"junk", "multipart/form-data", 400),
            (b"--line\r\n", "multipart/form-data; boundary=line", 400),
            (b"--line\r\n\r\nx\r\n--line--", "multipart/form-data; boundary=line", 400),
            (b" " * (MAX_BODY + 1), "application/json", 413),
        ],
    )
    def test_body_that_is_no_request_is_refused(self, served: Served, body: bytes, kind: str, status: int) -> None:
        got, answer = served.post(body, kind)
        assert got == status
        assert self.message(answer).startswith("expected ")
        assert served.still_works()

    @pytest.mark.parametrize(
        ("variables", "places", "files"),
        [
            ({"image": None}, {}, {"0": b"x"}),
            ({"image": None}, {"0": ["variables.image"]}, {}),
            ({"image": None}, {"0": ["variables.other"]}, {"0": b"x"}),
            ({"image": None}, {"0": ["query"]}, {"0": b"x"}),
            ({"image": "taken"}, {"0": ["variables.image"]}, {"0": b"x"}),
            ({"image": None}, {"0": "variables.image"}, {"0": b"x"}),
            ({"image": None}, {"0": [["variables.image"]]}, {"0": b"x"}),
            ({"image": None}, ["variables.image"], {"0": b"x"}),
            ({"image": None}, {"0": ["variables.image"]}, {str(number): b"" for number in range(50)}),
        ],
    )
    def test_upload_whose_map_is_wrong_is_refused(
        self, served: Served, variables: Any, places: Any, files: dict[str, bytes]
    ) -> None:
        status, answer = served.post(*multipart({"query": DETECT, "variables": variables}, places, files))
        assert status == 400
        assert self.message(answer).startswith("expected ")

    def test_request_of_a_web_page_is_not_answered(self, served: Served) -> None:
        body = json.dumps({"query": "{ model { name } }"}).encode()
        assert served.post(body)[0] == 200
        assert served.post(body, Origin="http://127.0.0.1")[0] == 403

    def test_compressed_body_is_refused_before_it_grows(self, served: Served) -> None:
        assert served.post(b"x", Content_Encoding="gzip")[0] == 415

    def test_other_paths_and_methods_have_json_errors_too(self, served: Served) -> None:
        assert served.request("GET", "/graphql")[0] == 405
        status, answer = served.request("GET", "/")
        assert (status, len(answer["errors"])) == (404, 1)

    def test_failure_inside_is_not_shown_to_the_caller(
        self, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(served.detector, "detect", fail)
        status, answer = served.ask(DETECT, image=text_of(picture()))
        assert (status, self.message(answer)) == (200, "the gateway failed (RuntimeError): read its log")
        assert "secret" in caplog.text


class TestBombs:
    def refused(self, served: Served, query: str) -> str:
        status, answer = served.ask(query, image=text_of(picture()))
        assert status == 400
        assert served.still_works()
        return " ".join(error["message"] for error in answer["errors"])

    def test_aliases_multiply_no_work(self, served: Served) -> None:
        def query(count: int) -> str:
            fields = " ".join(f"a{number}: detect(image: $image) {{ count }}" for number in range(count))
            return f"query($image: Image!) {{ {fields} }}"

        asked = served.detector.asked
        status, answer = served.ask(query(MAX_DETECTS), image=text_of(picture()))
        assert (status, len(answer["data"])) == (200, MAX_DETECTS)
        assert served.detector.asked == asked + MAX_DETECTS
        message = f"expected at most {MAX_DETECTS} fields 'detect' in one request, got {MAX_DETECTS + 1}"
        assert message in self.refused(served, query(MAX_DETECTS + 1))
        assert served.detector.asked == asked + MAX_DETECTS + 1

    def test_aliases_in_fragments_multiply_no_work_either(self, served: Served) -> None:
        fragments = " ".join(
            f"fragment f{part} on Query {{ "
            + " ".join(f"a{part}{number}: detect(image: $image) {{ count }}" for number in range(5))
            + " }"
            for part in range(3)
        )
        asked = served.detector.asked
        assert "got 15" in self.refused(served, f"query($image: Image!) {{ ...f0 ...f1 ...f2 }} {fragments}")
        assert served.detector.asked == asked + 1

    def test_fragments_that_double_at_every_level_are_answered_or_refused_at_once(self, served: Served) -> None:
        levels = 30
        text = " ".join(f"fragment f{n} on Model {{ ...f{n + 1} ...f{n + 1} }}" for n in range(levels))
        query = f"{{ model {{ ...f0 }} }} {text} fragment f{levels} on Model {{ name }}"
        assert served.ask(query) == (200, {"data": {"model": {"name": "known"}}})

    def test_many_tokens_are_refused(self, served: Served) -> None:
        assert "tokens" in self.refused(served, "{ model { " + "name " * 600 + "} }")
        assert "tokens" in self.refused(served, "{ model { " + "name, " * 600 + "} }")

    @pytest.mark.parametrize("bracket", ["{a", "{model", "[", "{a(b:", "query($a:["])
    def test_deep_nesting_is_refused(self, served: Served, bracket: str) -> None:
        self.refused(served, bracket * 240)
        self.refused(served, bracket * 3000)

    def test_long_text_is_refused_without_being_repeated(self, served: Served) -> None:
        for text in ("#" * (MAX_QUERY_CHARACTERS + 1), "a" * 200_000, '"' + "x" * 200_000 + '"', "\0" * 20_000):
            assert len(self.refused(served, text)) < 2000
        long_name = "b" * (MAX_QUERY_CHARACTERS - 10)
        assert len(self.refused(served, f"{{ {long_name} }}")) < 2000

    def test_long_variables_are_not_repeated(self, served: Served) -> None:
        query = 'query($n: Int) { detect(image: "", max: $n) { count } }'
        status, answer = served.ask(query, n="x" * 100_000)
        assert status == 400
        assert len(json.dumps(answer)) < 2000

    def test_many_errors_come_as_a_few(self, served: Served) -> None:
        status, answer = served.ask("{ " + " ".join(f"wrong{number}" for number in range(400)) + " }")
        assert status == 400
        assert len(answer["errors"]) <= 10

    def test_picture_of_few_bytes_and_many_pixels_is_not_decoded(self, served: Served) -> None:
        asked = served.detector.asked
        file = io.BytesIO()
        Image.new("1", (20_000, 20_000)).save(file, "PNG")
        assert len(file.getvalue()) < 100_000
        _, answer = served.ask(DETECT, image=text_of(file.getvalue()))
        assert "20000x20000 pixels are more" in answer["errors"][0]["message"]
        assert served.detector.asked == asked


class TestConnections:
    def test_body_that_never_comes_is_given_up(self) -> None:
        head = b"POST /graphql HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        impatient = Served(KnownDetector(), body_timeout_s=0.5)
        try:
            with socket.create_connection(("127.0.0.1", impatient.port), timeout=60) as slow:
                slow.sendall(head)
                # Without a body, which under load may take longer than this server allows.
                assert impatient.request("GET", "/health/live")[0] == 200
                assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        finally:
            impatient.close()

    def test_body_without_a_length_is_refused(self, served: Served) -> None:
        head = b"POST /graphql HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as chunked:
            chunked.sendall(head + b"ffffff\r\n")
            assert chunked.recv(100).startswith(b"HTTP/1.1 411 ")

    def test_more_requests_than_allowed_are_refused_not_queued(self, served: Served) -> None:
        served.detector.hold.clear()
        with ThreadPoolExecutor(4) as threads:
            try:
                waiting = [threads.submit(served.ask, DETECT, image=text_of(picture())) for _ in range(4)]
                assert eventually(lambda: served.server._running == 4)
                assert served.ask("{ model { name } }")[0] == 503
            finally:
                served.detector.hold.set()
            assert [each.result()[0] for each in waiting] == [200] * 4
        assert served.still_works()

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        body=st.one_of(
            st.binary(max_size=400),
            st.text(max_size=200).map(lambda text: json.dumps({"query": text}).encode()),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
                lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
                max_leaves=12,
            ).map(lambda value: json.dumps({"query": DETECT, "variables": {"image": value}}).encode()),
            st.binary(max_size=200).map(lambda junk: b"--line\r\n" + junk + b"\r\n--line--\r\n"),
        ),
        kind=st.sampled_from(["application/json", "multipart/form-data; boundary=line", "text/plain", "x", ""]),
    )
    def test_whatever_comes_is_answered_in_json_and_harms_nothing(self, served: Served, body: bytes, kind: str) -> None:
        status, answer = served.post(body, kind)
        assert status in {200, 400, 415}
        assert answer.get("errors")
        assert all("\n" not in error["message"] and len(error["message"]) < 600 for error in answer["errors"])

    def test_service_goes_on_after_all_that(self, served: Served) -> None:
        assert served.still_works()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 100, "..", "256.1.1.1"])
def test_host_that_cannot_be_listened_on_is_one_line(host: str) -> None:
    async def listen() -> None:
        gateway = Gateway(KnownDetector(), workers=1, max_pixels=1)
        server = GatewayServer(gateway, Limits(max_body_bytes=1, max_requests=1), lambda: True)
        async with server.listening(host, 0):
            raise AssertionError

    with pytest.raises(ClientError, match=f"^cannot listen on port 0 of {re.escape(host)} ") as caught:
        asyncio.run(listen())
    assert "\n" not in str(caught.value)
