"""What may be said of a connection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from clients import AsyncDetector, Compression, ConnectionOptions, Detector, OptionsError
from clients.models.control import ModelControl
from clients.wire.transport import connect


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"certificate": Path("a.pem")}, "certificate alone: give private_key"),
        ({"private_key": Path("a.key")}, "private_key alone: give certificate"),
        ({"compression": "brotli"}, "one of none, gzip, deflate, got 'brotli'"),
        ({"deadline_s": 0}, "deadline_s in seconds above 0"),
        ({"deadline_s": float("inf")}, "deadline_s in seconds above 0"),
        ({"deadline_s": float("nan")}, "deadline_s in seconds above 0"),
        ({"deadline_s": 1e10}, "at most 31536000 \\(365 days\\), got 1"),
        ({"headers": {"": "x"}}, "header's name"),
        ({"headers": {"a b": "x"}}, "header's name"),
        ({"headers": {"schlüssel": "x"}}, "header's name"),
        ({"headers": {"a\r\nb": "x"}}, "header's name"),
        ({"headers": {"Content-Length": "3"}}, "the connection's own"),
        ({"headers": {"grpc-timeout": "3"}}, "the connection's own"),
        ({"headers": {"token-bin": "3"}}, "would be binary"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        ConnectionOptions(**wrong)


@pytest.mark.parametrize("value", ["sesam\r\nHost: x", "öffne", " sesam", "sesam\0", 7])
def test_value_of_a_header_is_refused_without_being_shown(value: Any) -> None:
    with pytest.raises(OptionsError, match="value of header 'token' as printable ASCII") as caught:
        ConnectionOptions(headers={"token": value})
    assert "sesam" not in str(caught.value)


def test_secrets_are_not_in_the_representation() -> None:
    assert "sesam" not in repr(ConnectionOptions(headers={"token": "sesam"}))


def test_options_do_not_change_with_the_dictionary_they_were_made_of() -> None:
    headers = {"token": "sesam"}
    options = ConnectionOptions(headers=headers, compression="gzip")  # type: ignore[arg-type]
    headers["token"] = "other"
    assert options.headers == {"token": "sesam"}
    assert options.compression is Compression.GZIP
    with pytest.raises(TypeError):
        options.headers["token"] = "other"  # type: ignore[index]


class TestCertificates:
    @pytest.mark.parametrize("scheme", ["grpc", "http"])
    def test_trust_without_encryption_is_refused_with_the_address_to_use(self, scheme: str, tmp_path: Path) -> None:
        with pytest.raises(OptionsError, match=f"use {scheme}s://127.0.0.1:9"):
            Detector(f"{scheme}://127.0.0.1:9", "shapes", options=ConnectionOptions(root_certificates=tmp_path))

    @pytest.mark.parametrize("scheme", ["grpcs", "https"])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "No such file"),
            (b"\x30\x82", "has no line -----BEGIN"),
            (b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n", "cannot be used"),
        ],
    )
    def test_file_without_a_certificate_is_refused_before_connecting(
        self, scheme: str, content: bytes | None, message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "root.pem"
        if content is not None:
            path.write_bytes(content)
        options = ConnectionOptions(root_certificates=path)
        with pytest.raises(OptionsError, match=message):
            connect(f"{scheme}://127.0.0.1:9", options)

        async def connect_async() -> None:
            await AsyncDetector(f"{scheme}://127.0.0.1:9", "shapes", options=options).connect()

        with pytest.raises(OptionsError, match=message):
            asyncio.run(connect_async())


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), 1e10, 1e30])
def test_time_that_no_clock_can_count_is_refused_before_connecting(timeout_s: float) -> None:
    with pytest.raises(OptionsError, match="expected timeout_s in seconds above 0 and at most 31536000"):
        Detector("http://127.0.0.1:9", "m", timeout_s=timeout_s)
    with pytest.raises(OptionsError, match="expected timeout_s in seconds above 0 and at most 31536000"):
        ModelControl("http://127.0.0.1:9", timeout_s=timeout_s)
