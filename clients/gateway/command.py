"""``python -m clients gateway``: the detector for programs that have no gRPC."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import signal
import sys
from typing import TYPE_CHECKING

from clients import argument_types
from clients.connection_arguments import DEFAULT_URL, add_connection, connection_options
from clients.errors import ClientError

if TYPE_CHECKING:
    from clients.detector import Detector

DEFAULT_PORT = 8080
REQUESTS_PER_WORKER = 4
"""Under way at a time: most of them are being read."""
FOLLOW_S = 2.0
"""Between two looks at what the server says of the model."""
DESCRIPTION = """
Offer a served detector as a small GraphQL endpoint over HTTP: POST /graphql, GET /schema, /health/live, /health/ready.
It has no users and no passwords: by default it listens on this machine only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--url", default=DEFAULT_URL, help=f"grpc://HOST:PORT or http://HOST:PORT of Triton (default {DEFAULT_URL})"
    )
    parser.add_argument(
        "--model", required=True, type=argument_types.name, metavar="NAME", help="the model's name on the server"
    )
    parser.add_argument(
        "--timeout",
        type=argument_types.above_0,
        default=30.0,
        metavar="S",
        help="seconds allowed for each detection (default 30)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1, this machine only)")
    parser.add_argument(
        "--port", type=argument_types.port, default=DEFAULT_PORT, help=f"0 takes a free one (default {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--workers",
        type=argument_types.count,
        default=8,
        metavar="N",
        help="pictures in progress at a time (default 8)",
    )
    parser.add_argument(
        "--max-body-mb",
        type=argument_types.above_0,
        default=16.0,
        metavar="MB",
        help="the largest request (default 16)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=argument_types.above_0,
        default=25.0,
        metavar="MP",
        help="the largest picture (default 25)",
    )
    add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code."""
    if importlib.util.find_spec("graphql") is None or importlib.util.find_spec("aiohttp") is None:
        raise ClientError("the gateway needs graphql-core and aiohttp: pip install 'yolo-triton[gateway]'")
    import asyncio

    from clients.detector import Detector

    options = connection_options(arguments)
    with Detector(arguments.url, arguments.model, timeout_s=arguments.timeout, options=options) as detector:
        asyncio.run(_serve(detector, arguments))
    return 0


async def _serve(detector: Detector, arguments: argparse.Namespace) -> None:
    import asyncio

    from clients.gateway.schema import Gateway
    from clients.gateway.server import GatewayServer, Limits

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    limits = Limits(
        max_body_bytes=round(arguments.max_body_mb * 1e6), max_requests=arguments.workers * REQUESTS_PER_WORKER
    )
    gateway = Gateway(detector, workers=arguments.workers, max_pixels=round(arguments.max_megapixels * 1e6))
    try:
        server = GatewayServer(gateway, limits, detector.is_ready)
        async with server.listening(arguments.host, arguments.port) as address:
            if not _is_loopback(arguments.host):
                print(f"warning: everyone who reaches {arguments.host} may use the model", file=sys.stderr)
            print(f"gateway to {detector.model} at {address}/graphql, Ctrl-C stops it", flush=True)
            following = asyncio.create_task(_follow(detector))
            await stop.wait()
            following.cancel()
    finally:
        gateway.close()


async def _follow(detector: Detector) -> None:
    """Go by the classes and the size of whatever version the server has loaded, and say so when they change."""
    import asyncio

    while True:
        await asyncio.sleep(FOLLOW_S)
        try:
            changed = await asyncio.to_thread(detector.refresh)
        except ClientError:
            # Requests and /health/ready say what is wrong.
            continue
        if changed:
            height, width = detector.size
            print(f"{detector.model} has changed: {width}x{height}, {', '.join(detector.names)}", flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
