"""builder.server and the OpenVINO model against a real tritonserver."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from builder.errors import ServerError
from builder.model_processes import ModelProcesses
from builder.server import ServerOptions, TritonServer
from tests.waiting import wait_until

PATIENT_S = 60

CALL_RECORDER = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.calls = []

    def execute(self, requests):
        self.calls.append([len(pb_utils.get_input_tensor_by_name(each, "images").as_numpy()) for each in requests])
        most_requests = max(len(call) for call in self.calls)
        most_images = max(max(call) for call in self.calls)
        answer = np.array([[most_requests, most_images]], np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("sums", answer)]) for _ in requests]
"""

# An exception of C++ that nothing catches, as OpenVINO's threads have thrown them.
TERMINATED = """
import ctypes
import threading
import time


class TritonPythonModel:
    def initialize(self, args):
        if args["model_name"] == "crashes_at_once":
            self.crash()

    def crash(self):
        library = ctypes.CDLL("libstdc++.so.6")
        threading.Thread(target=lambda: library._ZSt21__throw_runtime_errorPKc(b"out of threads")).start()
        time.sleep(60)

    def execute(self, requests):
        self.crash()
"""

GATED = """
import pathlib
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])

    def execute(self, requests):
        (self.folder / "entered").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.005)
        answer = np.zeros((1, 2), np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("sums", answer)]) for _ in requests]
"""


def images_of(size, seed=0, pixels=4):
    return np.random.default_rng(seed).integers(0, 256, (size, pixels, 3), np.uint8)


def expected_sums(images):
    total = images.reshape(len(images), -1).sum(axis=1, dtype=np.float32)
    return np.stack([total, total / 2], axis=1)


class Client:
    """The few calls that these tests make, over gRPC."""

    def __init__(self, server):
        self.grpc = grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))

    def infer(self, model, images):
        tensor = grpcclient.InferInput("images", images.shape, "UINT8")
        tensor.set_data_from_numpy(images)
        return self.grpc.infer(model, [tensor]).as_numpy("sums")

    def infer_at_once(self, model, batches):
        """Send each batch from a thread of its own; returns the result or the exception of each."""
        results = [None] * len(batches)

        def send(index):
            try:
                results[index] = self.infer(model, batches[index])
            except InferenceServerException as error:
                results[index] = error

        threads = [threading.Thread(target=send, args=(index,)) for index in range(len(batches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def counts(self, model):
        """Images and executions so far; Triton counts them after it has answered."""
        statistics = self.grpc.get_inference_statistics(model).model_stats[0]
        return statistics.inference_count, statistics.execution_count


@pytest.fixture(scope="module")
def repository(tmp_path_factory, write_model):
    folder = tmp_path_factory.mktemp("repository")
    batched = "dynamic_batching { max_queue_delay_microseconds: %d }"
    warmup = 'inputs { key: "images" value { data_type: TYPE_UINT8 dims: [4, 3] zero_data: true } }'
    write_model(folder, "plain")
    for count, name in ((1, "one_thread"), (3, "three_threads"), (4, "four_threads")):
        threads = f'parameters {{ key: "inference_threads" value {{ string_value: "{count}" }} }}'
        write_model(folder, name, more=threads)
    write_model(folder, "batched", more=batched % (PATIENT_S * 1_000_000))
    write_model(
        folder,
        "warmed",
        more=f'model_warmup [{{ name: "one" batch_size: 1 {warmup} }}, {{ name: "all" batch_size: 8 {warmup} }}]',
    )
    write_model(
        folder,
        "warmup_recorder",
        code=CALL_RECORDER,
        more=f'model_warmup {{ name: "all" batch_size: 8 {warmup} }}',
    )
    return folder


@pytest.fixture(scope="module")
def server(repository, triton_server):
    return triton_server(repository)


@pytest.fixture(scope="module")
def client(server):
    return Client(server)


def processes_naming(folder):
    """The command lines of all processes that name the folder, as every part of its server does."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().decode(errors="replace").replace("\0", " ")
            if str(folder) in command and "-m builder serve" not in command:
                found.append(command)
    return found


def regions_of(pid):
    """Those of this container: in another, a process of the same number may have a server, too."""
    return list(Path("/dev/shm").glob(f"yolo_triton_server_{pid}_{Path('/proc/self/ns/pid').stat().st_ino}_*"))


def waiting_requests(server, model):
    with urllib.request.urlopen(server.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    return next(
        float(line.split()[-1])
        for line in lines
        if line.startswith(f'nv_inference_pending_request_count{{model="{model}"')
    )


def test_ready_server_lists_every_model_ready(server, repository):
    assert server.models() == [(path.name, "1", "READY") for path in sorted(repository.iterdir())]
    assert server.ready_after_s > 0


def listening_sockets(pid):
    """Address and port of every socket that the process has open for listening, from the kernel's table."""
    descriptors = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection may end while the folder is read
            descriptors.append(str(link.readlink()))
    inodes = {each.removeprefix("socket:[").rstrip("]") for each in descriptors if each.startswith("socket:")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # 0A is LISTEN
                address, port = fields[1].split(":")
                found.add((address[-8:], int(port, 16)))
    return found


def test_all_three_endpoints_listen_on_loopback_alone(server):
    options = server.options
    expected = {("0100007F", port) for port in (options.http_port, options.grpc_port, options.metrics_port)}
    # The kernel gives its table in pieces: a socket may be missing from one reading while others come and go.
    seen = set()

    def all_seen():
        seen.update(listening_sockets(server.pid))
        return seen >= expected

    wait_until(all_seen)
    assert seen == expected


def test_metrics_are_served(server):
    with urllib.request.urlopen(server.metrics_url) as answer:
        assert b"nv_inference_count" in answer.read()


@pytest.mark.parametrize("model", ["plain", "one_thread", "three_threads", "four_threads", "warmed"])
@pytest.mark.parametrize("size", range(1, 9))
def test_every_batch_size_gets_its_own_numbers(client, model, size):
    images = images_of(size, seed=size)
    np.testing.assert_array_equal(client.infer(model, images), expected_sums(images))


def test_requests_of_different_sizes_run_as_one_batch_and_are_answered_apart(client):
    images_before, executions_before = client.counts("batched")
    # 1 + 2 + 5 images fill the largest batch, so that none of them waits for the queue delay.
    batches = [images_of(size, seed=size) for size in (1, 2, 5)]
    for images, sums in zip(batches, client.infer_at_once("batched", batches), strict=True):
        np.testing.assert_array_equal(sums, expected_sums(images))
    wait_until(lambda: client.counts("batched") == (images_before + 8, executions_before + 1))


def test_results_of_an_earlier_request_are_not_overwritten_by_a_later_one(client):
    first, second = images_of(3, seed=1), images_of(3, seed=2)
    first_sums = client.infer("plain", first)
    client.infer("plain", second)
    np.testing.assert_array_equal(first_sums, expected_sums(first))


def test_a_request_of_the_wrong_shape_fails_alone(client):
    batches = [images_of(2, seed=1), images_of(2, pixels=5), images_of(6, seed=3)]
    right, wrong, also_right = client.infer_at_once("batched", batches)
    np.testing.assert_array_equal(right, expected_sums(batches[0]))
    np.testing.assert_array_equal(also_right, expected_sums(batches[2]))
    assert "unexpected shape for input 'images'" in wrong.message()


def test_a_batch_beyond_the_maximum_is_refused(client):
    with pytest.raises(InferenceServerException, match="batch-size must be <= 8"):
        client.infer("plain", images_of(9))


def test_a_warmup_sample_of_batch_size_8_is_one_call_of_8_requests_of_one_image(client):
    np.testing.assert_array_equal(client.infer("warmup_recorder", images_of(1)), [[8, 1]])


def test_full_queue_and_expired_request_are_rejected(tmp_path, write_model, triton_server):
    # Triton lets a request shorten the default time, and one of 0 cannot be shortened.
    time_us = "default_timeout_microseconds: 600000000 allow_timeout_override: true"
    policy = f"max_queue_size: 2 timeout_action: REJECT {time_us}"
    more = f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}"
    full = write_model(tmp_path, "full", code=GATED, more=more)
    expired = write_model(tmp_path, "expired", code=GATED, more=more)
    server = triton_server(tmp_path)
    client = Client(server)

    outcomes = {"full": [], "expired": []}

    def send(model, timeout_us=None):
        tensor = grpcclient.InferInput("images", (1, 4, 3), "UINT8")
        tensor.set_data_from_numpy(images_of(1))
        client.grpc.async_infer(
            model,
            [tensor],
            lambda result, error: outcomes[model].append(error and error.message()),
            timeout=timeout_us,
        )

    for model in (full, expired):
        send(model.name)
        wait_until((model / "entered").exists)
    # One runs, two wait, and one may have left the queue for the next batch.
    for _ in range(4):
        send("full")
    wait_until(lambda: outcomes["full"])
    refused = set(outcomes["full"])
    assert refused == {"[request id: <id_unknown>] Exceeds maximum queue size"}

    send("expired", timeout_us=1000)
    wait_until(lambda: waiting_requests(server, "expired") == 1)
    # Longer than the millisecond that a request may wait; Triton looks for it when the model is free again.
    time.sleep(0.05)
    assert outcomes["expired"] == []
    for model in (full, expired):
        (model / "open").touch()
    wait_until(lambda: len(outcomes["expired"]) == 2 and len(outcomes["full"]) == 5)
    answered = outcomes["full"].count(None)
    assert answered >= 3
    assert refused == {outcome for outcome in outcomes["full"] if outcome}
    assert sorted(outcomes["expired"], key=str) == [None, "Request timeout expired"]


def test_only_the_named_models_are_loaded(repository, triton_server):
    server = triton_server(repository, models=("plain",))
    assert ("plain", "1", "READY") in server.models()
    assert not any(state == "READY" for name, _, state in server.models() if name != "plain")


def test_named_configuration_is_served(tmp_path, write_model, triton_server):
    model = write_model(tmp_path, "both")
    (model / "configs").mkdir()
    config = (model / "config.pbtxt").read_text()
    (model / "configs" / "cpu.pbtxt").write_text(config)
    (model / "config.pbtxt").write_text(config.replace('backend: "python"', 'backend: "tensorrt"'))
    images = images_of(2)
    client = Client(triton_server(tmp_path, config_name="cpu"))
    np.testing.assert_array_equal(client.infer("both", images), expected_sums(images))


def test_stop_leaves_no_process_and_no_memory_region(tmp_path, write_model, free_ports):
    write_model(tmp_path, "plain")
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    with TritonServer(ServerOptions(repository=tmp_path, **ports)) as server:
        # tritonserver, and the Python backend's process for the model
        assert len(processes_naming(tmp_path)) == 2
        others = [region for region in regions_of(os.getpid()) if region.stat().st_size]
        assert others
    assert processes_naming(tmp_path) == []
    assert not [region for region in regions_of(os.getpid()) if server._region_prefix in region.name]
    server.stop()


def test_a_killed_server_is_an_error_and_leaves_nothing_either(tmp_path, write_model, free_ports):
    write_model(tmp_path, "plain")
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    with TritonServer(ServerOptions(repository=tmp_path, **ports)) as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match="killed by SIGKILL"):
            server.wait()
    assert processes_naming(tmp_path) == []
    assert not [region for region in regions_of(os.getpid()) if server._region_prefix in region.name]


@pytest.mark.parametrize("dies", [True, False])
def test_an_error_of_those_who_use_a_server_that_has_died_is_told_as_its_death(tmp_path, write_model, free_ports, dies):
    write_model(tmp_path, "plain")
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))

    def use():
        with TritonServer(ServerOptions(repository=tmp_path, **ports)) as server:
            if dies:
                os.kill(server.pid, signal.SIGKILL)
            raise ConnectionResetError("recvmsg")

    with pytest.raises(ServerError if dies else ConnectionResetError, match="killed by SIGKILL" if dies else "recvmsg"):
        use()
    assert processes_naming(tmp_path) == []


@pytest.mark.parametrize("flag", ["http_port", "grpc_port", "metrics_port"])
def test_port_in_use_is_named_with_the_flag_that_changes_it(repository, free_ports, flag):
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    with socket.create_server(("127.0.0.1", ports[flag])), pytest.raises(ServerError) as caught:
        TritonServer(ServerOptions(repository=repository, **ports)).start()
    assert f"port {ports[flag]} of 127.0.0.1" in str(caught.value)
    assert f"--{flag.replace('_', '-')}" in str(caught.value)


@pytest.mark.parametrize("flag", ["http_port", "grpc_port", "metrics_port"])
def test_port_lost_after_the_check_is_named_too(repository, free_ports, flag, monkeypatch):
    monkeypatch.setattr("builder.server.check_ports", lambda address, options: None)
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    taken = socket.create_server(("127.0.0.1", ports[flag]))
    server = TritonServer(ServerOptions(repository=repository, models=("plain",), **ports))
    # Triton opens the metrics port last, when it has already said that it is ready.
    with taken, pytest.raises(ServerError) as caught, server:
        server.wait()
    assert str(ports[flag]) in str(caught.value)
    assert f"--{flag.replace('_', '-')}" in str(caught.value)
    assert "\n" not in str(caught.value)


def broken_config(model):
    (model / "config.pbtxt").write_text('name: "broken" max_batch_size: "eight"')
    return r"config.pbtxt.*Expected integer, got: \"eight\""


def missing_graph(model):
    (model / "1" / "model.onnx").unlink()
    return r"model broken version 1: .*1/model\.onnx"


def other_output(model):
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [2]", "dims: [3]"))
    return r"output sums: the configuration says float32 \[1, 3\], model.onnx gives float32 \[1,2\]; build this version"


def no_batch(model):
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 0"))
    return "max_batch_size: expected at least 1, got 0"


def free_size(model):
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [4, 3]", "dims: [-1, 3]"))
    return r"input images: expected a fixed size, got \[-1, 3\]"


def no_threads(model):
    with (model / "config.pbtxt").open("a") as config:
        config.write('parameters { key: "inference_threads" value { string_value: "none" } }')
    return "parameter inference_threads: expected 1 or more, got 'none'"


def other_backend(model):
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace('"python"', '"tensorrt"'))
    return "unable to find backend library for backend 'tensorrt'"


def crash_while_loading(model):
    (model / "1" / "model.py").write_text(TERMINATED.replace("crashes_at_once", "broken"))
    return r"model broken version 1: .* \(terminate called .*std::runtime_error.*: out of threads\)"


def missing_version(model):
    with (model / "config.pbtxt").open("a") as config:
        config.write("version_policy { specific { versions: [2] } }")
    return r"model broken: No model version was found \(version 2 is specified for model 'broken', but .* not present\)"


@pytest.mark.parametrize(
    "breakage",
    [
        broken_config,
        missing_graph,
        other_output,
        no_batch,
        free_size,
        no_threads,
        other_backend,
        crash_while_loading,
        missing_version,
    ],
)
def test_a_model_that_does_not_load_is_one_line_with_the_reason(tmp_path, write_model, triton_server, breakage):
    reason = breakage(write_model(tmp_path, "broken"))
    with pytest.raises(ServerError, match=reason) as caught:
        triton_server(tmp_path)
    assert "\n" not in str(caught.value)
    assert processes_naming(tmp_path) == []


def test_model_that_never_gets_ready_is_an_error_and_is_stopped(tmp_path, write_model, triton_server):
    code = "import time\nclass TritonPythonModel:\n    def initialize(self, args):\n        time.sleep(600)\n"
    write_model(tmp_path, "sleeper", code=code)
    with pytest.raises(ServerError, match="ready within 1 s"):
        triton_server(tmp_path, ready_timeout_s=1.0)
    assert processes_naming(tmp_path) == []


def test_log_goes_to_the_file_that_was_named(tmp_path, write_model, triton_server):
    write_model(tmp_path / "repository", "plain")
    triton_server(tmp_path / "repository", log_file=tmp_path / "triton.log")
    # A thread of this process writes it, and may be behind the server.
    wait_until(lambda: "successfully loaded 'plain'" in (tmp_path / "triton.log").read_text())


@pytest.fixture
def serving(tmp_path, write_model, free_ports):
    """``python -m builder serve`` as a process of its own that has said that it is ready, and what it has said."""
    model = write_model(tmp_path, "plain")
    (model / "configs").mkdir()
    (model / "configs" / "cpu.pbtxt").write_text((model / "config.pbtxt").read_text())
    flags = zip(("--http-port", "--grpc-port", "--metrics-port"), map(str, free_ports(3)), strict=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", "serve", "--repository", str(tmp_path), *itertools.chain(*flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        yield process, "".join(lines)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_with_0_and_leaves_nothing_on_a_signal(serving, tmp_path, stop_signal):
    process, said = serving
    assert "serving configs/cpu.pbtxt" in said
    assert f"starting tritonserver on {tmp_path}, loading 1 model ...\nready after" in said
    assert "plain version 1: READY" in said
    assert "loopback only" in said
    process.send_signal(stop_signal)
    assert process.wait(PATIENT_S) == 0
    assert processes_naming(tmp_path) == []
    assert regions_of(process.pid) == []


def model_process(server_pid, folder):
    """The process id of the one model process of a server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            if b"triton_python_backend_stub\0" in command and str(folder).encode() in command:
                found.append(int(path.parent.name))
    (pid,) = found
    return pid


@pytest.mark.parametrize("kill_signal", [signal.SIGKILL, signal.SIGSEGV])
def test_serve_ends_with_an_error_when_the_process_of_a_model_is_killed(serving, tmp_path, kill_signal):
    process, _ = serving
    os.kill(model_process(process.pid, tmp_path), kill_signal)
    assert process.wait(PATIENT_S) == 1
    (line,) = process.stderr.read().splitlines()
    assert line.startswith("error: the process of model plain version 1 (pid ")
    assert f"was killed by {kill_signal.name}" in line
    assert ("when memory runs out" in line) == (kill_signal is signal.SIGKILL)
    assert line.endswith("start it again")
    assert processes_naming(tmp_path) == []
    assert regions_of(process.pid) == []


def test_an_exception_that_ends_the_process_of_a_model_is_quoted(tmp_path, write_model, triton_server):
    write_model(tmp_path, "crashes", code=TERMINATED)
    server = triton_server(tmp_path)
    with pytest.raises(InferenceServerException, match="not healthy"):
        Client(server).infer("crashes", images_of(1))
    with pytest.raises(ServerError, match=r"model crashes version 1 .* was killed by SIGABRT .*: out of threads"):
        server.wait()


def test_a_model_that_is_unloaded_is_not_taken_for_a_dead_one(tmp_path, write_model, triton_server):
    write_model(tmp_path, "plain")
    server = triton_server(tmp_path, models=("plain",))
    processes = ModelProcesses(server.pid)
    pid = model_process(server.pid, tmp_path)
    Client(server).grpc.unload_model("plain")
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert processes.dead() == {}


def test_serve_does_not_outlive_kill_9(serving, tmp_path):
    process, _ = serving
    assert len(processes_naming(tmp_path)) >= 2
    process.kill()
    wait_until(lambda: processes_naming(tmp_path) == [] and regions_of(process.pid) == [])


def test_what_serve_and_its_server_left_when_both_were_killed_is_removed_by_the_next(serving, tmp_path, free_ports):
    process, _ = serving
    # Standing still, it cannot clear up after its server.
    process.send_signal(signal.SIGSTOP)
    assert regions_of(process.pid) != []
    os.killpg(os.getpgid(model_process(process.pid, tmp_path)), signal.SIGKILL)
    wait_until(lambda: processes_naming(tmp_path) == [])
    process.kill()
    process.wait()
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(3), strict=True))
    with TritonServer(ServerOptions(repository=tmp_path, config_name="cpu", **ports)):
        assert regions_of(process.pid) == []


def test_a_further_signal_does_not_disturb_the_shutdown(serving, tmp_path):
    process, _ = serving
    for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        process.send_signal(stop_signal)
        time.sleep(0.05)
    assert process.wait(PATIENT_S) == 0
    assert processes_naming(tmp_path) == []
