"""What builder.server says before and without a tritonserver, how the wheel's one is prepared and ends early."""

import contextlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import tritonserver
from builder.errors import ServerError
from builder.serve import serve
from builder.server import ServerOptions, TritonServer
from builder.tritonserver import failure_reason, find_tritonserver

PREPARED_FILES = {"libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub"}


@pytest.fixture
def repository(tmp_path):
    for name in ("shapes", "zebra"):
        (tmp_path / "repository" / name / "configs").mkdir(parents=True)
        (tmp_path / "repository" / name / "config.pbtxt").touch()
    (tmp_path / "repository" / "shapes" / "configs" / "cpu.pbtxt").touch()
    (tmp_path / "repository" / "zebra" / "configs" / "t4.pbtxt").touch()
    return tmp_path / "repository"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "yolo-triton"


@pytest.fixture
def loadable(tmp_path):
    """A repository with one model that tritonserver loads."""
    version = tmp_path / "loadable" / "idle" / "1"
    version.mkdir(parents=True)
    tensor = 'name: "{}" data_type: TYPE_UINT8 dims: [1]'.format
    (version.parent / "config.pbtxt").write_text(
        f'name: "idle" backend: "python" input {{ {tensor("x")} }} output {{ {tensor("y")} }} '
        "instance_group { kind: KIND_CPU }"
    )
    (version / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    return tmp_path / "loadable"


@pytest.fixture
def kept():
    """Three sockets, by the ports' names, that keep their ports free: nobody listens, and nobody else finds them free.

    Whoever sets SO_REUSEADDR, as servers do, may listen there.
    """
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in ("http_port", "grpc_port", "metrics_port")}
        for each in sockets.values():
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", 0))
        yield sockets


@pytest.fixture
def kept_ports(kept):
    return {name: each.getsockname()[1] for name, each in kept.items()}


@pytest.fixture
def without_tritonserver_on_path(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert shutil.which("tritonserver") is None


def refusal(**options):
    with pytest.raises(ServerError) as caught:
        TritonServer(ServerOptions(**options)).start()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_repository_is_told_how_to_make_one(tmp_path):
    message = refusal(repository=tmp_path / "nothing")
    assert f"expected a model repository at {tmp_path / 'nothing'}, found nothing" in message
    assert "python -m builder build" in message


def test_a_file_is_no_repository(tmp_path):
    (tmp_path / "file").touch()
    assert "found a file" in refusal(repository=tmp_path / "file")


def test_repository_without_a_model_is_told_how_to_make_one(tmp_path):
    (tmp_path / "README.md").touch()
    assert "expected at least one NAME/config.pbtxt" in refusal(repository=tmp_path)


def test_unknown_model_is_told_the_known_ones(repository):
    assert "a model named lion" in refusal(repository=repository, models=("shapes", "lion"))
    assert "found shapes, zebra" in refusal(repository=repository, models=("lion",))


def test_configuration_that_no_model_has_is_told_the_known_ones(repository):
    message = refusal(repository=repository, config_name="a100")
    assert "configs/a100.pbtxt" in message
    assert "found cpu, t4" in message


def test_serve_refuses_what_cannot_be_served(tmp_path):
    with pytest.raises(ServerError, match="expected a model repository"):
        serve(ServerOptions(repository=tmp_path / "nothing"))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_impossible_port_is_refused(repository, port):
    assert f"expected --grpc-port between 1 and 65535, got {port}" in refusal(repository=repository, grpc_port=port)


def test_one_port_for_two_endpoints_is_refused(repository):
    message = refusal(repository=repository, http_port=9000, metrics_port=9000)
    assert "got 9000 for both --http-port and --metrics-port" in message


def test_host_without_an_address_is_refused(repository):
    assert "expected --host to be an IPv4 address" in refusal(repository=repository, host="no.such.host.invalid")


def test_host_of_another_machine_is_refused(repository):
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): no machine has it.
    assert "choose another with --http-port or --host" in refusal(repository=repository, host="192.0.2.1")


def test_port_in_use_on_any_address_is_refused(repository, kept_ports):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        message = refusal(repository=repository, **{**kept_ports, "grpc_port": port})
    assert f"port {port} of 127.0.0.1" in message
    assert "--grpc-port" in message


def test_log_file_that_cannot_be_written_is_refused(repository, tmp_path, kept_ports):
    message = refusal(repository=repository, log_file=tmp_path / "no" / "folder" / "triton.log", **kept_ports)
    assert "expected to write tritonserver's log to" in message


def processes_naming(folder):
    """The command lines, with that folder among their arguments, of processes that run: one that has ended has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if os.fsencode(folder) in line]


class Ready(http.server.BaseHTTPRequestHandler):
    """Says that it and its model are ready, as another tritonserver does."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.do_GET()
        self.wfile.write(b'[{"name": "idle", "version": "1", "state": "READY"}]')

    def log_message(self, *arguments):
        pass


def test_another_server_on_a_port_that_was_lost_after_the_check_is_not_taken_for_ours(
    loadable, kept, kept_ports, monkeypatch
):
    port = kept_ports["http_port"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Ready, bind_and_activate=False) as other:
        other.socket.close()
        other.socket = kept["http_port"]

        def find_after_the_check():
            other.server_activate()
            threading.Thread(target=other.serve_forever, daemon=True).start()
            return find_tritonserver()

        monkeypatch.setattr("builder.server.find_tritonserver", find_after_the_check)
        message = refusal(repository=loadable, **kept_ports)
        other.shutdown()
    assert message == (
        "tritonserver ended with exit code 1: "
        f"port {port} of 127.0.0.1 is in use; free it or choose another with --http-port"
    )


LOST = """
import signal, sys
from pathlib import Path
import builder.serve
from builder.server_options import ServerOptions

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)  # the interpreter drops what it raises here

def losing(*arguments):
    Dying()
    return original(*arguments)

repository, step, *ports = sys.argv[1:]
original = getattr(builder.serve, step)
setattr(builder.serve, step, losing)
ports = dict(zip(("http_port", "grpc_port", "metrics_port"), map(int, ports)))
sys.exit(builder.serve.serve(ServerOptions(repository=Path(repository), **ports)))
"""


@pytest.mark.parametrize(("step", "ready"), [("check_repository", False), ("_print_status", True)])
def test_a_signal_whose_exception_was_lost_ends_a_server_before_and_after_it_is_ready(
    loadable, kept_ports, step, ready
):
    command = [sys.executable, "-c", LOST, loadable, step, *map(str, kept_ports.values())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("\nstopped\n")
    assert ("ready after" in ended.stdout) == ready


def test_a_signal_while_a_server_ends_leaves_nothing_of_it(loadable, kept_ports, monkeypatch):
    server = TritonServer(ServerOptions(repository=loadable, **kept_ports))
    server.start()
    process = server._process
    assert len(processes_naming(loadable)) == 2  # tritonserver's and the model's
    waits = iter([KeyboardInterrupt])
    wait = process.wait

    def interrupted_once(*arguments):
        for interruption in waits:
            raise interruption
        return wait(*arguments)

    monkeypatch.setattr(process, "wait", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    assert processes_naming(loadable) == []
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(server._region_prefix)]


def test_urls_name_a_host_that_can_be_reached(repository):
    server = TritonServer(
        ServerOptions(repository=repository, host="0.0.0.0", http_port=1, grpc_port=2, metrics_port=3)
    )
    assert server.http_url == "http://127.0.0.1:1"
    assert server.grpc_url == "grpc://127.0.0.1:2"
    assert server.metrics_url == "http://127.0.0.1:3/metrics"


def test_tritonserver_on_path_comes_first(tmp_path, monkeypatch):
    executable = tmp_path / "tritonserver"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_tritonserver()
    assert found.executable == executable
    assert not found.only_python_backend
    assert found.backends is None
    assert found.environment == {}


@pytest.mark.usefixtures("without_tritonserver_on_path")
def test_no_tritonserver_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ServerError, match=r'pip install "yolo-triton\[server\]"'):
        find_tritonserver()


@pytest.mark.usefixtures("without_tritonserver_on_path")
def test_wheel_is_prepared_once_with_every_file_executable(empty_cache):
    backend = find_tritonserver().backends / "python"
    assert {path.name for path in backend.iterdir()} == PREPARED_FILES
    assert all(os.access(path, os.X_OK) for path in backend.iterdir())
    assert f"py{sys.version_info.major}.{sys.version_info.minor}" in str(backend)
    inodes = {path.name: path.stat().st_ino for path in backend.iterdir()}
    assert find_tritonserver().backends / "python" == backend
    assert {path.name: path.stat().st_ino for path in backend.iterdir()} == inodes
    assert len(list(empty_cache.iterdir())) == 1


@pytest.mark.usefixtures("without_tritonserver_on_path")
def test_damaged_preparation_is_made_anew(empty_cache):
    stub = find_tritonserver().backends / "python" / "triton_python_backend_stub"
    stub.unlink()
    find_tritonserver()
    assert os.access(stub, os.X_OK)
    assert len(list(empty_cache.iterdir())) == 1


@pytest.mark.usefixtures("without_tritonserver_on_path", "empty_cache")
def test_a_preparation_that_finds_a_damage_takes_nothing_away_that_another_has_put_in_its_place(overtaken):
    backends = find_tritonserver().backends
    (backends / "python" / "triton_python_backend_stub").unlink()
    ended = overtaken(backends.parent, find_tritonserver)
    find_tritonserver()
    assert ended == [False]


@pytest.mark.usefixtures("without_tritonserver_on_path", "empty_cache", "no_locks")
def test_a_file_system_without_locks_takes_the_preparation_all_the_same():
    assert find_tritonserver().backends.is_dir()


@pytest.mark.usefixtures("without_tritonserver_on_path")
def test_several_at_once_prepare_one_whole_folder(empty_cache):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: find_tritonserver(), range(8)))
    assert len({installation.backends for installation in found}) == 1
    assert {path.name for path in (found[0].backends / "python").iterdir()} == PREPARED_FILES
    assert len(list(empty_cache.iterdir())) == 1


@pytest.mark.usefixtures("without_tritonserver_on_path")
def test_cache_that_cannot_be_written_is_told_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ServerError, match="set XDG_CACHE_HOME"):
        find_tritonserver()


@pytest.mark.usefixtures("without_tritonserver_on_path", "empty_cache")
def test_wheel_whose_executable_lost_its_run_bit_is_copied(tmp_path, monkeypatch):
    original = find_tritonserver().executable
    package = tmp_path / "site-packages" / "pytriton"
    shutil.copytree(original.parents[2], package)
    (package / "tritonserver" / "bin" / "tritonserver").chmod(0o644)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.syspath_prepend(str(package.parent))
    # pytest's root user may execute nothing without a run bit either.
    assert os.access(find_tritonserver().executable, os.X_OK)
    assert find_tritonserver().executable.is_relative_to(tmp_path / "other")


def test_python_without_a_stub_in_the_wheel_is_told_the_versions(tmp_path):
    for python in ("3.9", "3.11", "3.10"):
        stub = tmp_path / "python_backend_stubs" / python / "triton_python_backend_stub"
        stub.parent.mkdir(parents=True)
        stub.touch()
    with pytest.raises(ServerError, match=r"serves Python 3\.9, 3\.10, 3\.11, this is Python 3\.99"):
        tritonserver.installation_in_wheel(tmp_path, python="3.99")


TABLE = """
I1121 22:17:56.165791 6501 server.cc:674]
+-------+---------+----------------------------------------------------------------------+
| Model | Version | Status                                                               |
+-------+---------+----------------------------------------------------------------------+
| good  | 1       | READY                                                                |
| bad   | 1       | UNAVAILABLE: Internal: ModuleNotFoundError: No module named 'nosuch' |
|       |         |                                                                      |
|       |         | At:                                                                  |
|       |         |   /repository/bad/1/model.py(1): <module>                            |
| worse | 3       | UNAVAILABLE: Invalid argument: line one:                             |
|       |         | line two                                                             |
+-------+---------+----------------------------------------------------------------------+
error: creating server: Internal - failed to load all models
"""


def test_reason_is_each_failed_models_row_without_its_call_stack():
    assert failure_reason(TABLE.splitlines()) == (
        "model bad version 1: Internal: ModuleNotFoundError: No module named 'nosuch'; "
        "model worse version 3: Invalid argument: line one: line two"
    )


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "E1121 main.cc:245] \"failed to start GRPC service: Unavailable - Socket '127.0.0.1:18001' "
            'already in use "',
            "port 18001 of 127.0.0.1 is in use; free it or choose another with --grpc-port",
        ),
        (
            "[libprotobuf ERROR text_format.cc:337] "
            "Error parsing text-format inference.ModelConfig: 1:48: Expected int\n"
            "E1121 manager.cc:1460] \"Poll failed for model directory 'bad': failed to "
            'read text proto from r/bad/config.pbtxt"',
            "failed to read text proto from r/bad/config.pbtxt "
            "(Error parsing text-format inference.ModelConfig: 1:48: Expected int)",
        ),
        (
            "one line\nerror: creating server: Internal - failed to stat file\n",
            "creating server: Internal - failed to stat file",
        ),
        ("first\nlast words\n\n", "last words"),
        (
            "| lion | -       | Not loaded: No model version was found |\nerror: creating server: Internal - failed\n",
            "model lion: No model version was found",
        ),
        (
            "terminate called after throwing an instance of 'std::system_error'\n"
            "I1121 another process's line\n"
            "  what():  Resource temporarily unavailable\n"
            "error: creating server: Internal - failed to load all models\n",
            "terminate called after throwing an instance of 'std::system_error': Resource temporarily unavailable",
        ),
        (
            "terminate called without an active exception\nlast words\n",
            "terminate called without an active exception",
        ),
        ("", "it wrote nothing to its log"),
    ],
)
def test_reason_is_the_most_telling_line_of_the_log(log, reason):
    assert failure_reason(log.splitlines()) == reason
