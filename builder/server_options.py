"""What to serve and where to listen, checked before anything is started."""

from __future__ import annotations

import errno
import itertools
import socket
from dataclasses import dataclass
from pathlib import Path

from builder.errors import ServerError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """What to serve, and where to listen."""

    repository: Path
    config_name: str | None = None
    """Serve ``configs/<config_name>.pbtxt`` where a model has it, else its ``config.pbtxt``."""
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    models: tuple[str, ...] = ()
    """The models to load; empty: every model of the repository."""
    extra_args: tuple[str, ...] = ()
    """Further arguments of tritonserver itself; with them, too, it listens on the three ports."""
    log_file: Path | None = None
    """Where tritonserver's log goes; None: only its tail is kept, and quoted where the server fails."""
    # A graph that onnxruntime hands to TensorRT is compiled while it loads, which takes minutes on a GPU's first start.
    ready_timeout_s: float = 900.0


def check_repository(options: ServerOptions) -> None:
    """Raise ServerError where the options name a repository, a model or a configuration that is not there."""
    repository = options.repository
    if not repository.is_dir():
        raise ServerError(
            f"expected a model repository at {repository}, found {'a file' if repository.exists() else 'nothing'}; "
            "write one with: python -m builder build"
        )
    models = models_in(repository)
    if not models:
        raise ServerError(
            f"expected at least one NAME/config.pbtxt in {repository}, found none; "
            "write a model with: python -m builder build"
        )
    missing = sorted(set(options.models).difference(models))
    if missing:
        raise ServerError(f"expected a model named {missing[0]} in {repository}, found {', '.join(models)}")
    if options.config_name:
        # Triton itself falls back to config.pbtxt without a word.
        known = sorted({path.stem for path in repository.glob("*/configs/*.pbtxt")})
        if options.config_name not in known:
            raise ServerError(
                f"expected a model with configs/{options.config_name}.pbtxt in {repository}, "
                f"found {', '.join(known) or 'no configs'}; choose one (--config-name), or build the model again"
            )


def models_in(repository: Path) -> list[str]:
    """The names of a repository's models."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))


def ipv4_address(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise ServerError(
            f"expected --host to be an IPv4 address or a name that has one, got {host}: {error}; "
            "127.0.0.1 is this machine only, 0.0.0.0 every network that it is in"
        ) from error


def check_ports(address: str, options: ServerOptions) -> None:
    """Raise ServerError where a port cannot be listened on, before anything is loaded."""
    ports = {
        "--http-port": options.http_port,
        "--grpc-port": options.grpc_port,
        "--metrics-port": options.metrics_port,
    }
    for (flag, port), (other_flag, other_port) in itertools.combinations(ports.items(), 2):
        if port == other_port:
            raise ServerError(f"expected three different ports, got {port} for both {flag} and {other_flag}")
    for flag, port in ports.items():
        if not 1 <= port <= 65535:
            raise ServerError(f"expected {flag} between 1 and 65535, got {port}")
        with socket.socket() as probe:
            # As tritonserver does: a port that a former server has just left is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                in_use = error.errno == errno.EADDRINUSE
                raise ServerError(
                    f"expected to listen on port {port} of {address}, got: {error.strerror}; "
                    + (f"free it or choose another with {flag}" if in_use else f"choose another with {flag} or --host")
                ) from error
