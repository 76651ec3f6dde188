"""The flags by which every command's connection is trusted and let in."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from clients.cli import _parser, main
from clients.connection_arguments import add_connection, connection_options
from clients.errors import OptionsError
from clients.options import DEFAULT_OPTIONS, ConnectionOptions


def options(*flags: str) -> ConnectionOptions:
    parser = argparse.ArgumentParser()
    add_connection(parser)
    return connection_options(parser.parse_args(flags))


def test_without_flags_the_connection_is_the_default() -> None:
    assert options() == DEFAULT_OPTIONS


def test_flags_become_the_connections_options(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    read = options(
        *("--ca", "ca.pem", "--cert", "own.pem", "--key", "own.key"),
        *("--header", "triton-grpc-protocol-token=a=b", "--header", f"x-plant=@{tmp_path / 'token'}"),
    )
    assert (read.root_certificates, read.certificate, read.private_key) == (
        Path("ca.pem"),
        Path("own.pem"),
        Path("own.key"),
    )
    assert read.headers == {"triton-grpc-protocol-token": "a=b", "x-plant": "secret"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--header", "token"], "expected --header NAME=VALUE"),
        (["--header", "=value"], "expected --header NAME=VALUE"),
        (["--header", "a=1", "--header", "a=2"], "expected --header a once"),
        (["--header", "a=@/nowhere"], "--header a: /nowhere cannot be read: No such file"),
        (["--cert", "own.pem"], "expected certificate and private_key together"),
    ],
)
def test_what_cannot_be_right_is_one_error(flags: list[str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        options(*flags)


@pytest.mark.parametrize(
    "command",
    [
        ["detect", "a.jpg", "--model", "m"],
        ["stream", "rtsp://127.0.0.1:9/none", "--model", "m"],
        ["models", "list"],
        ["gateway", "--model", "m"],
    ],
)
def test_every_command_that_connects_takes_them(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name, *rest = command
    assert _parser().parse_args([name, "--ca", "ca.pem", *rest]).ca == Path("ca.pem")
    assert main([name, "--cert", "own.pem", *rest]) == 1
    assert "expected certificate and private_key together" in capsys.readouterr().err


def test_behind_the_action_of_models_they_count_with_those_in_front_of_it() -> None:
    in_front = ["--ca", "ca.pem", "--header", "a=1"]
    behind = ["--cert", "own.pem", "--key", "own.key", "--header", "b=2"]
    read = connection_options(_parser().parse_args(["models", *in_front, "list", *behind]))
    assert (read.root_certificates, read.certificate, read.private_key) == (
        Path("ca.pem"),
        Path("own.pem"),
        Path("own.key"),
    )
    assert read.headers == {"a": "1", "b": "2"}
