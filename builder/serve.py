"""``python -m builder serve``: a server in the foreground, and what is said of it."""

from __future__ import annotations

import dataclasses
import ipaddress
import signal

from builder.server import TritonServer
from builder.server_options import ServerOptions, check_repository, ipv4_address, models_in
from builder.signals import interrupted_by
from builder.tritonserver import find_tritonserver


def serve(options: ServerOptions) -> int:
    """Serve until SIGINT or SIGTERM, which end it in order with exit code 0.

    Prints what is loaded and where it listens. Raises ServerError where the server cannot start, ends by itself, or
    can no longer answer for one of its models.
    """
    with interrupted_by(signal.SIGINT, signal.SIGTERM) as interruption:
        try:
            check_repository(options)
            options = _with_config_for_this_machine(options)
            count = len(options.models or models_in(options.repository))
            models = "1 model" if count == 1 else f"{count} models"
            print(f"starting tritonserver on {options.repository}, loading {models} ...", flush=True)
            with TritonServer(options, check=interruption.check) as server:
                _print_status(server)
                server.wait()
        except KeyboardInterrupt:
            print("stopped")
    return 0


def _with_config_for_this_machine(options: ServerOptions) -> ServerOptions:
    """The options with ``config_name`` "cpu" where none is given and nothing else could be served here."""
    without_gpu_backends = options.config_name is None and find_tritonserver().only_python_backend
    if not without_gpu_backends or not any(options.repository.glob("*/configs/cpu.pbtxt")):
        return options
    print("this tritonserver has no GPU backend: serving configs/cpu.pbtxt (--config-name cpu), on the CPU")
    return dataclasses.replace(options, config_name="cpu")


def _print_status(server: TritonServer) -> None:
    options = server.options
    print(f"ready after {server.ready_after_s:.1f} s, configuration {options.config_name or 'config.pbtxt'}")
    for name, version, state in server.models():
        print(f"  {name} version {version}: {state}")
    print(f"  HTTP {server.http_url}   gRPC {server.grpc_url}   metrics {server.metrics_url}")
    if ipaddress.ip_address(ipv4_address(options.host)).is_loopback:
        print("listening on loopback only; Ctrl-C stops it", flush=True)
    else:
        print(
            f"WARNING: listening on {options.host}: whoever reaches this machine may use the models, "
            "without a password; Ctrl-C stops it",
            flush=True,
        )
