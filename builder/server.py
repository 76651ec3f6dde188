"""Starts tritonserver on a model repository, waits for its models, and leaves nothing behind when it stops."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

from builder.errors import ServerError
from builder.listening import listening_ports
from builder.model_processes import ModelProcesses
from builder.server_log import ServerLog
from builder.server_options import ServerOptions, check_ports, check_repository, ipv4_address
from builder.server_regions import new_prefix, remove_left_behind, remove_regions
from builder.tritonserver import Installation, crash_words, failure_reason, find_tritonserver

# Not a preexec_fn: it runs between fork and exec, where a thread of the parent's (gRPC's, torch's) may hold any lock.
_DYING_WITH_PARENT = (
    sys.executable,
    "-IS",
    "-c",
    """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
# The parent may have ended before the line above.
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
""",
)
POLL_S = 0.02
PROBE_TIMEOUT_S = 2.0
_LAST_MOMENT_S = 0.5
"""From the end of a server's connections to that of its process."""
WATCH_S = 1.0
"""How often ``wait`` looks after the model processes."""
DRAIN_S = 10
"""How long tritonserver may take for the requests in flight; it is killed twice that long after SIGTERM."""

SHARED_MEMORY_BYTES = 32 << 20
"""Each instance's region to begin with; a file on tmpfs, whose pages are taken only when they are used."""

ModelState = tuple[str, str, str]
"""Name, version and state of a model, as Triton's repository index has them."""


class TritonServer:
    """A running tritonserver: ``with TritonServer(options) as server: ...``.

    It ends with the thread that started it, however that ends: call ``start`` from one that outlives the server.
    """

    def __init__(self, options: ServerOptions, check: Callable[[], None] = lambda: None) -> None:
        """Prepare to serve; nothing is started yet.

        ``check`` is called again and again by ``start`` and ``wait``: what it raises ends them.
        """
        self.options = options
        self._check = check
        self.ready_after_s = 0.0
        """Seconds from the start of the process until every model was ready."""
        self._address = ""
        self._process: subprocess.Popen[str] | None = None
        self._model_processes: ModelProcesses | None = None
        self._log = ServerLog(options.log_file)
        # Tells this server's regions from another's when they have to be removed after a crash.
        self._region_prefix = new_prefix()

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server; an error of others whose cause is that it has ended by itself is told as that.

        Raises:
            ServerError: instead of such an error, how it has ended.
        """
        try:
            ended = self._ended() if isinstance(error, Exception) and not isinstance(error, ServerError) else None
        finally:
            self.stop()
        if ended is not None:
            raise ended from error

    @property
    def http_url(self) -> str:
        """The URL of the HTTP endpoint, as this machine reaches it."""
        return f"http://{self._reachable_host}:{self.options.http_port}"

    @property
    def grpc_url(self) -> str:
        """The URL of the gRPC endpoint, as this machine reaches it."""
        return f"grpc://{self._reachable_host}:{self.options.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """The URL of the Prometheus metrics, as this machine reaches it."""
        return f"http://{self._reachable_host}:{self.options.metrics_port}/metrics"

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def start(self) -> None:
        """Start tritonserver and return when every model is ready.

        Raises ServerError where it cannot start, where a model does not load, or where that takes too long.
        """
        options = self.options
        check_repository(options)
        self._address = ipv4_address(options.host)
        check_ports(self._address, options)
        installation = find_tritonserver()
        remove_left_behind()
        started = time.monotonic()
        try:
            self._process = self._spawn(installation)
            self._wait_until_ready(self._process, started + options.ready_timeout_s)
        except BaseException:
            self.stop()
            raise
        self.ready_after_s = time.monotonic() - started
        self._model_processes = ModelProcesses(self._process.pid)

    def wait(self) -> NoReturn:
        """Block until the server can no longer do its work, which is an error: raises ServerError with the reason.

        That is when tritonserver ends by itself, or when the process of a model does, which Triton does not notice.
        """
        assert self._process is not None, "the server has not been started"
        assert self._model_processes is not None
        suspects: set[int] = set()
        while True:
            self._check()
            dead = self._model_processes.dead()
            # A process that is being unloaded is dead for a moment, until Triton collects it.
            for pid in suspects & dead.keys():
                said = crash_words(self._log.lines)
                killed = dead[pid].signal_number == signal.SIGKILL
                hint = said or ("the system does that when memory runs out" if killed else "")
                raise ServerError(
                    f"{dead[pid]}{f' ({hint})' if hint else ''}; tritonserver would go on and fail every request to "
                    "it, so it was stopped: start it again"
                )
            suspects = set(dead)
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise self._died(self._process.wait(WATCH_S))

    def stop(self) -> None:
        """End tritonserver: requests in flight are answered, then every process and memory region is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2 * DRAIN_S)
        finally:
            self._remove(process)

    def _remove(self, process: subprocess.Popen[str]) -> None:
        """Leave nothing of a server that has ended, or shall not be waited for any longer."""
        # A server that crashed or was killed leaves its model processes, in its process group, and their memory.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._log.wait()
        remove_regions(self._region_prefix)

    def models(self, *, timeout_s: float = 30.0) -> list[ModelState]:
        """Name, version and state of every model that the server knows."""
        try:
            status, body = self._request("POST", "/v2/repository/index", timeout_s)
        except OSError as error:
            raise ServerError(f"expected a running server at {self.http_url}, got: {error}") from error
        if status != http.client.OK:
            raise ServerError(f"expected the repository index from {self.http_url}, got HTTP {status}: {body}")
        return [(model["name"], model.get("version", ""), model.get("state", "")) for model in json.loads(body)]

    @property
    def _ports(self) -> set[int]:
        return {self.options.http_port, self.options.grpc_port, self.options.metrics_port}

    @property
    def _reachable_host(self) -> str:
        host = self._address or self.options.host
        return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 -- compared, not bound

    def _spawn(self, installation: Installation) -> subprocess.Popen[str]:
        log_file = self._log.open()
        process = subprocess.Popen(
            [*_DYING_WITH_PARENT, str(os.getpid()), str(installation.executable), *self._arguments(installation)],
            env={**os.environ, **installation.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # A Ctrl-C in the terminal reaches this process only, which then stops the server in order.
            start_new_session=True,
        )
        assert process.stdout is not None
        self._log.follow(process.stdout, log_file)
        return process

    def _arguments(self, installation: Installation) -> list[str]:
        options = self.options
        arguments = [
            f"--model-repository={options.repository.resolve()}",
            # Every configuration is written whole: what Triton would guess is an error instead.
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={DRAIN_S}",
            # One after the other: model processes that start side by side under load were seen to crash or hang (2.51).
            "--model-load-thread-count=1",
            f"--http-address={self._address}",
            f"--http-port={options.http_port}",
            f"--grpc-address={self._address}",
            f"--grpc-port={options.grpc_port}",
            f"--metrics-address={self._address}",
            f"--metrics-port={options.metrics_port}",
            f"--backend-config=python,shm-region-prefix-name={self._region_prefix}",
            # Room for every model's batches from the start: the region begins with 1 MB, less than one image, and grows
            # and moves while model processes read it, which was seen to crash one in some hundred of them under load.
            f"--backend-config=python,shm-default-byte-size={SHARED_MEMORY_BYTES}",
            # By default Triton gives up on a model that starts for 30 s, and then waits for its process for ever.
            f"--backend-config=python,stub-timeout-seconds={math.ceil(options.ready_timeout_s)}",
        ]
        if installation.backends:
            arguments.append(f"--backend-directory={installation.backends}")
        if options.config_name:
            arguments.append(f"--model-config-name={options.config_name}")
        if options.models:
            arguments.append("--model-control-mode=explicit")
            arguments += [f"--load-model={model}" for model in options.models]
        return [*arguments, *options.extra_args]

    def _wait_until_ready(self, process: subprocess.Popen[str], deadline: float) -> None:
        while not self._is_ready():
            self._check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise self._died(process.wait(POLL_S))
            if time.monotonic() > deadline:
                raise ServerError(
                    f"expected every model to be ready within {self.options.ready_timeout_s:g} s, they are not; "
                    f"tritonserver's last word: {failure_reason(self._log.lines)}"
                )

    def _is_ready(self) -> bool:
        try:
            if self._request("GET", "/v2/health/ready", PROBE_TIMEOUT_S)[0] != http.client.OK:
                return False
            # Triton listens only after it has loaded: until then another server may answer on a port that was free
            # when it was checked. And it listens for metrics last, when it has already said that it is ready.
            if not self._ports <= listening_ports(self.pid):
                return False
            ready = {name for name, _, state in self.models(timeout_s=PROBE_TIMEOUT_S) if state == "READY"}
        except (OSError, ServerError):
            return False
        return ready.issuperset(self.options.models) if self.options.models else bool(ready)

    def _request(self, method: str, path: str, timeout_s: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._reachable_host, self.options.http_port, timeout=timeout_s)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"no HTTP answer: {error!r}") from error
        finally:
            connection.close()

    def _ended(self) -> ServerError | None:
        """How it has ended by itself; None where it lives."""
        # Its connections are closed a moment before its end is known.
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._died(self._process.wait(_LAST_MOMENT_S)) if self._process else None
        return None

    def _died(self, exit_code: int) -> ServerError:
        # A model process that outlives the server holds the pipe open.
        self._log.wait(1)
        how = (
            f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
        )
        return ServerError(f"tritonserver {how}: {failure_reason(self._log.lines)}")
