"""Requests and answers of a detector that takes encoded images."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tritonclient.grpc import service_pb2

from clients import encoded
from clients.encoded import EncodedContract, EncodedRequest, encoded_contract_from_config, encoded_request
from clients.encoded_images import check_encoded
from clients.errors import ContractError, ImageError
from clients.images import MAX_PIXELS, encoded_size
from clients.selection import Selection
from clients.selection_text import selection_from, selection_text

CONTRACT = EncodedContract(model="shapes_jpeg", names=("circle", "grün"), size_hw=(320, 640), max_detections=300)
CONFIG = {
    "parameters": {
        "contract": {"string_value": "encoded/1"},
        "names": {"string_value": '["circle", "grün"]'},
        "size_hw": {"string_value": "[320, 640]"},
        "max_detections": {"string_value": "300"},
    }
}


def image(file_format: str, size: tuple[int, int] = (30, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, file_format)
    return buffer.getvalue()


def config(**parameters: str) -> dict:
    return {"parameters": CONFIG["parameters"] | {key: {"string_value": value} for key, value in parameters.items()}}


def refusal(function: Callable[[Any], object], argument: Any, kind: type[Exception]) -> str | None:
    """What it says where it refuses its argument with that kind of error; no other kind is let through."""
    try:
        function(argument)
    except kind as error:
        return str(error)
    return None


class TestContract:
    def test_is_read_from_the_configuration(self):
        assert encoded_contract_from_config(CONFIG, model="shapes_jpeg") == CONTRACT

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"contract": "detections/1"}, "says contract 'detections/1', expected 'encoded/1'"),
            ({"contract": ""}, "has no parameter 'contract'"),
            ({"names": "circle"}, "does not say what it detects"),
            ({"names": "[]"}, "names is no list of class names"),
            ({"names": "[1]"}, "names is no list of class names"),
            ({"size_hw": "[320]"}, "does not say what it detects"),
            ({"size_hw": "320"}, "does not say what it detects"),
            ({"max_detections": "many"}, "does not say what it detects"),
        ],
    )
    def test_another_is_refused(self, changed: dict[str, str], message: str):
        with pytest.raises(ContractError, match=message):
            encoded_contract_from_config(config(**changed), model="shapes_jpeg")

    def test_a_configuration_without_parameters_is_refused(self):
        with pytest.raises(ContractError, match="has no parameter 'contract'"):
            encoded_contract_from_config({}, model="shapes_jpeg")


class TestRequest:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_bytes_go_as_they_are(self, tmp_path: Path, file_format: str):
        content = image(file_format)
        path = tmp_path / "picture"
        path.write_bytes(content)
        for source in (content, bytearray(content), memoryview(content), path, str(path)):
            assert encoded_request(source, CONTRACT).encoded == content

    def test_only_the_header_is_read(self):
        content = image("JPEG", (640, 480))
        # Half of it is the server's to refuse.
        assert encoded_request(content[: len(content) // 2], CONTRACT).encoded == content[: len(content) // 2]

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (b"", "expected JPEG, PNG or WebP, got none"),
            (b"hello", "expected JPEG, PNG or WebP, got bytes that start b'hello'"),
            (image("BMP"), "expected JPEG, PNG or WebP"),
            (image("TIFF"), "expected JPEG, PNG or WebP"),
            (image("GIF"), "expected JPEG, PNG or WebP"),
            (np.zeros((4, 4, 3), np.uint8), 'got ndarray: pixels are sent with send="pixels"'),
            ("no/such/file.jpg", "no such file"),
            (Path("/"), "cannot be read"),
            ("\0", "cannot be read"),
            (7, "got int"),
        ],
    )
    def test_what_is_no_encoded_image_is_refused(self, source, message: str):
        with pytest.raises(ImageError, match=message):
            encoded_request(source, CONTRACT)

    def test_the_file_is_kept_for_what_only_the_server_finds(self, tmp_path: Path):
        (tmp_path / "a.png").write_bytes(image("PNG"))
        assert encoded_request(tmp_path / "a.png", CONTRACT).file == str(tmp_path / "a.png")
        assert encoded_request(image("PNG"), CONTRACT).file == ""

    def test_error_names_the_file(self, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("notes")
        with pytest.raises(ImageError, match=r"notes\.txt: encoded image of 5 bytes: expected JPEG"):
            encoded_request(tmp_path / "notes.txt", CONTRACT)

    def test_class_that_the_model_does_not_have_is_refused(self):
        with pytest.raises(ValueError, match="no class 'square', the model has: circle, grün"):
            encoded_request(image("PNG"), CONTRACT, Selection(classes=("square",)))

    def test_over_grpc_it_is_a_triton_request(self):
        content = image("PNG")
        selection = Selection(classes=("grün",), maximum=1)
        message = encoded.grpc_message(encoded_request(content, CONTRACT, selection, priority=2))
        request = service_pb2.ModelInferRequest.FromString(message)
        assert (request.model_name, request.model_version) == ("shapes_jpeg", "")
        assert [(each.name, each.datatype, list(each.shape)) for each in request.inputs] == [("encoded", "BYTES", [1])]
        assert [each.name for each in request.outputs] == ["detections"]
        assert request.raw_input_contents[0] == len(content).to_bytes(4, "little") + content
        assert selection_from(request.parameters["select"].string_param) == selection
        assert request.parameters["priority"].uint64_param == 2

    def test_over_http_it_is_the_same(self):
        content = image("PNG")
        selection = Selection(classes=("grün",), maximum=1)
        header, body = encoded.http_body(encoded_request(content, CONTRACT, selection, priority=2))
        request = json.loads(header)
        assert body == len(content).to_bytes(4, "little") + content
        assert request["inputs"] == [
            {"name": "encoded", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(body)}}
        ]
        assert selection_from(request["parameters"]["select"]) == selection
        assert request["parameters"]["priority"] == 2

    def test_nothing_is_said_where_everything_is_wanted(self):
        request = encoded_request(image("PNG"), CONTRACT)
        assert dict(service_pb2.ModelInferRequest.FromString(encoded.grpc_message(request)).parameters) == {}
        assert json.loads(encoded.http_body(request)[0])["parameters"] == {}


class TestAnswer:
    REQUEST = EncodedRequest(contract=CONTRACT, encoded=b"")
    ROWS = np.array([[1, 2, 3, 4, 0.9, 1], [5, 6, 7, 8, 0.5, 0]], np.float32)

    def test_rows_are_detections(self):
        found = self.REQUEST.detections(self.ROWS)
        assert found.xyxy.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert [each.name for each in found] == ["grün", "circle"]
        assert len(self.REQUEST.detections(self.ROWS[:0])) == 0

    @pytest.mark.parametrize(
        "rows",
        [
            np.zeros((301, 6), np.float32),
            np.zeros((2, 5), np.float32),
            np.zeros(6, np.float32),
            np.full((1, 6), np.nan, np.float32),
            np.array([[1, 2, 3, 4, 0.9, 2]], np.float32),
            np.array([[1, 2, 3, 4, 0.9, -1]], np.float32),
        ],
    )
    def test_rows_that_no_such_server_sends_are_refused(self, rows):
        with pytest.raises(ContractError):
            self.REQUEST.detections(rows)

    def test_over_grpc(self):
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="detections", datatype="FP32", shape=[2, 6])
        response.raw_output_contents.append(self.ROWS.tobytes())
        np.testing.assert_array_equal(encoded.rows_from_grpc(response), self.ROWS)
        response.outputs[0].datatype = "FP16"
        with pytest.raises(ContractError, match="got detections FP16"):
            encoded.rows_from_grpc(response)

    def test_over_http(self):
        outputs = [{"name": "detections", "datatype": "FP32", "shape": [2, 6]}]
        header = json.dumps({"outputs": outputs}).encode()
        np.testing.assert_array_equal(encoded.rows_from_http(header + self.ROWS.tobytes(), len(header)), self.ROWS)
        other = json.dumps({"outputs": []}).encode()
        with pytest.raises(ContractError, match="got nothing"):
            encoded.rows_from_http(other, len(other))

    def test_servers_word_about_an_image_is_told_from_others(self):
        said = "in ensemble 'shapes_jpeg', encoded image of 5 bytes: the image is truncated or damaged (x)"
        error = encoded.image_error(said)
        assert str(error) == "encoded image of 5 bytes: the image is truncated or damaged (x)"
        of_file = encoded.image_error(said, "a.jpg")
        assert str(of_file) == "a.jpg: encoded image of 5 bytes: the image is truncated or damaged (x)"
        assert encoded.image_error("in ensemble 'shapes_jpeg', Exceeds maximum queue size") is None


class TestSelectionText:
    def test_everything_needs_no_words(self):
        assert selection_text(Selection()) == ""

    @given(
        st.builds(
            Selection,
            classes=st.none() | st.lists(st.text(max_size=9), max_size=4).map(tuple),
            confidence=st.floats(0, 1),
            region_xyxy=st.none()
            | st.tuples(st.floats(-1e6, 0), st.floats(-1e6, 0), st.floats(1, 1e6), st.floats(1, 1e6)),
            maximum=st.none() | st.integers(0, 1 << 70),
        )
    )
    def test_what_is_written_is_read(self, selection: Selection):
        assert selection_from(selection_text(selection) or "{}") == selection

    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: st.lists(children, max_size=5) | st.dictionaries(st.text(), children, max_size=4),
    )
    fields = st.dictionaries(
        st.sampled_from(["classes", "confidence", "region_xyxy", "maximum", "Classes"]), anything, max_size=4
    )

    @given(st.text() | (anything | fields).map(json.dumps))
    def test_whatever_comes_is_a_selection_or_one_line(self, text: str):
        said = refusal(selection_from, text, ValueError)
        assert said is None or (said.startswith("select: ") and len(said.splitlines()) == 1)

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"confidence": 1' + "0" * 400 + "}", '{"maximum": ' + "9" * 9999])
    def test_what_breaks_a_parser_is_one_line_too(self, text: str):
        with pytest.raises(ValueError, match=r"^select: "):
            selection_from(text)


class TestSize:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_is_read_from_the_header(self, file_format: str):
        assert check_encoded(image(file_format, (31, 17))) == (17, 31)

    def test_of_other_formats_is_read_too(self):
        assert encoded_size(image("BMP", (31, 17))) == (17, 31)

    def test_beyond_the_limit_is_refused_by_the_header(self):
        side = int(MAX_PIXELS**0.5) + 1
        header = image("PNG", (side, 1))
        # Width, height and their checksum lie at fixed places (PNG specification, IHDR).
        chunk = header[12:20] + struct.pack(">I", side) + header[24:29]
        huge = header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:]
        with pytest.raises(ImageError, match="are more than the limit of 178 megapixels"):
            check_encoded(huge)

    @given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: image("PNG")[:20] + tail))
    def test_garbage_is_an_image_error(self, content: bytes):
        said = refusal(check_encoded, content, ImageError)
        assert said is None or len(said.splitlines()) == 1
