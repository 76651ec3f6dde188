"""Ray for as long as a command needs it: one of this machine's own, on loopback, or a cluster that is there already.

Nothing is reported to anybody, and nothing but the machine itself reaches a Ray that is started here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builder.durable import scratch_folder, sweep
from builder.errors import SpecError
from builder.signals import Interrupted
from trainer.errors import TrainingError

LOCAL = "local"
_FOLDER = "yolo-ray-"
ADDRESSES = "local (one is started on this machine), auto (the one that runs here), or HOST:PORT of a cluster"
_OBJECT_STORE_BYTES = 80 * 2**20
"""Ray wants 75 MB at least; what travels here is lines and settings."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # torch alone takes a busy machine a while to import.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    # What ends a worker is asked for twice a second, not every other.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A worker is this command's own work: Ray would have it wait for every other process of the machine.
    "RAY_worker_niceness": "0",
    # A process for each core would be started before any is asked for.
    "RAY_prestart_worker_first_driver": "0",
    # Paths of a request are meant from the folder that it was made in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # It would warn that a process without GPUs will see them in a later release.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray takes the machine's own address for the loopback's, and listens on every network, but where it may be no cluster:
that is asked for by this name on Linux too (ray._private.services.get_node_ip_address)."""
_REACH_S = 5.0
_GONE_S = 20.0
"""What its raylet has started sees only after a second or two that the raylet is gone."""
_LOOK_S = 0.05


@contextlib.contextmanager
def started_ray(address: str, *, cpus: int | None = None, gpus: int | None = None) -> Iterator[None]:
    """Connect to Ray, and leave it at the end and on errors; one that was started for this ends with it.

    ``cpus`` and ``gpus`` are what a Ray that is started here may give away; None: all of the machine.

    Raises:
        SpecError: the address is wrong, or Ray is not installed.
        TrainingError: nothing answers there, or it does not start.
    """
    check_address(address)
    with contextlib.ExitStack() as leaving:
        leaving.enter_context(_environment(address))
        ray = _ray()
        own: dict[str, Any] = {}
        if address == LOCAL:
            own = {
                "num_cpus": cpus,
                "num_gpus": gpus,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": str(leaving.enter_context(folder_of_ray())),
            }
        leaving.callback(_end, ray, _children() if own else None)
        try:
            with _signals_kept():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, OSError, RuntimeError, TimeoutError, ValueError) as e:
            reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else type(e).__name__
            what = "does not start" if own else "cannot be joined"
            raise TrainingError(f"--ray {address}: Ray {what}: {reason}") from e
        yield


def _end(ray: Any, others: frozenset[Any] | None) -> None:
    """Leave Ray; where it was started here, ``others`` were there before, and nothing of it is left afterwards."""
    started = _children() - others if others is not None else frozenset()
    ray.shutdown()
    until_s = time.monotonic() + _GONE_S
    while not all(map(_is_gone, started)) and time.monotonic() < until_s:
        time.sleep(_LOOK_S)


def _children() -> frozenset[Any]:
    """What this process has started, and they."""
    import psutil

    return frozenset(psutil.Process().children(recursive=True))


def _is_gone(process: Any) -> bool:
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def check_address(address: str) -> None:
    """Pass where the address is one, and something listens there.

    Raises:
        SpecError: it is none.
        TrainingError: nothing listens there.
    """
    if address in (LOCAL, "auto"):
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 2**16) or "/" in host:
        raise SpecError(f"--ray {address}: expected {ADDRESSES}.")
    # Ray itself would try for a minute, and end the process.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_S).close()
    except OSError as e:
        raise TrainingError(f"--ray {address}: no Ray answers there ({e.strerror or e}); expected {ADDRESSES}.") from e


def _ray() -> Any:
    try:
        import ray
    except ImportError as e:
        raise SpecError("--ray needs Ray, which is not installed: pip install 'yolo-triton[ray]'.") from e
    return ray


@contextlib.contextmanager
def _environment(address: str) -> Iterator[None]:
    """What Ray reads when it is imported and started."""
    before = dict(os.environ)
    wanted = dict(_ENVIRONMENT)
    if address == LOCAL:
        # Without a token of its own Ray would leave one in the user's home.
        wanted |= {_NO_CLUSTER: "0", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update({name: value for name, value in wanted.items() if name not in before})
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_") and name not in before]:
            del os.environ[name]


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; it goes back to whoever had it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit as e:
        raise Interrupted(signal.SIGTERM) from e
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def folder_of_ray() -> Iterator[Path]:
    """For Ray's sockets, logs and records, removed at the end; those of killed commands are removed too.

    A socket's path has 107 characters at most.
    """
    parent = Path(tempfile.gettempdir())
    parent = parent if len(str(parent)) <= 24 else Path("/tmp")  # noqa: S108
    sweep(parent, _FOLDER)
    with scratch_folder(parent, _FOLDER) as folder:
        yield folder
