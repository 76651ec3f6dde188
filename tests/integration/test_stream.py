"""Streams against a real tritonserver and a real RTSP camera."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from builder.server import TritonServer
from clients import Detector
from examples.shapes.generate import Size, draw_image
from tests.conftest import FreePorts, StartServer
from tests.videos import write_video

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "shapes"
SYSTEM_PYTHON = "/usr/bin/python3"
RTSP_PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad "
    "gstreamer1.0-plugins-ugly python3-gi"
)
PATIENCE_S = 60
SIDE = 320
FPS = 10


def build(repository: Path, cache: Path) -> None:
    flags = ("--weights", SAMPLE / "shapes.pt", "--images", SAMPLE / "unseen.jpg", "--imgsz", SIDE)
    command = [sys.executable, "-m", "builder", "build", *flags, "--repository", repository, "--cache", cache]
    run = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    folder = tmp_path_factory.mktemp("sample")
    build(folder / "repository", folder / "cache")
    return triton_server(folder / "repository", config_name="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Twenty pictures of the sample's shapes, RGB."""
    rng = np.random.default_rng(7)
    return [np.ascontiguousarray(draw_image(rng, Size(SIDE, SIDE))[0][..., ::-1]) for _ in range(20)]


@pytest.fixture(scope="module")
def video(pictures: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds."""
    frames = [pictures[number % len(pictures)] for number in range(5 * FPS)]
    return write_video(tmp_path_factory.mktemp("video") / "shapes.mp4", frames, FPS)


class Stream:
    """A running ``python -m clients stream``."""

    def __init__(self, server: TritonServer, *arguments: object) -> None:
        fixed = ["--url", server.grpc_url, "--model", "shapes", "--metrics-port", "0", "--json", "-"]
        command = [sys.executable, "-m", "clients", "stream", *map(str, arguments), *fixed]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        self._metrics = self.said.removeprefix("metrics at ").strip()
        os.set_blocking(self.process.stderr.fileno(), True)
        assert self._metrics.startswith("http://127.0.0.1:"), self.said + self.process.stderr.read()
        # Whoever reads nothing makes the stream wait, and drop.
        import threading

        self.lines: list[dict[str, Any]] = []
        self._threads = [threading.Thread(target=self._read_lines), threading.Thread(target=self._read_words)]
        for thread in self._threads:
            thread.start()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        with urllib.request.urlopen(self._metrics) as answer:
            text = answer.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_for(self, what: Callable[[Stream], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not what(self):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, f"it did not come to that: {self.said}"
            time.sleep(0.05)

    def answered(self) -> float:
        return self.metric("yolo_stream_frames_total", outcome="answered")

    def wait_for_answers(self, more: int) -> None:
        """Until so many more frames have been answered."""
        before = self.answered()
        self.wait_for(lambda stream: stream.answered() >= before + more)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> dict[str, int]:
        """Wait for the end; the total's counts. The process must have ended by itself, or by its signal, in order."""
        self.process.wait(PATIENCE_S)
        for thread in self._threads:
            thread.join()
        match = re.search(r"(\d+) captured = (\d+) answered \+ (\d+) dropped \+ (\d+) failed in", self.said)
        assert match, self.said
        counts = dict(zip(("captured", "answered", "dropped", "failed"), map(int, match.groups()), strict=True))
        assert counts["captured"] == counts["answered"] + counts["dropped"] + counts["failed"]
        assert len(self.lines) == counts["answered"] + counts["failed"]
        assert sum("error" in line for line in self.lines) == counts["failed"]
        for source in {line["source"] for line in self.lines}:
            numbers = [line["frame"] for line in self.lines if line["source"] == source]
            assert numbers == sorted(set(numbers))
        return counts

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def _read_words(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line


@contextlib.contextmanager
def streaming(server: TritonServer, *arguments: object) -> Iterator[Stream]:
    stream = Stream(server, *arguments)
    try:
        yield stream
    finally:
        if stream.process.poll() is None:
            stream.process.kill()
        stream.process.wait()


@contextlib.contextmanager
def stopped(server: TritonServer) -> Iterator[None]:
    """The server stands still, as when its machine is overwhelmed."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_every_frame_of_a_file_is_answered_as_the_detector_answers_it(server: TritonServer, video: Path) -> None:
    with streaming(server, video, "--as-fast-as-possible") as stream:
        assert stream.end() == {"captured": 50, "answered": 50, "dropped": 0, "failed": 0}
    assert stream.process.returncode == 0
    with av.open(str(video)) as container, Detector(server.grpc_url, "shapes") as detector:
        for frame, line in zip(container.decode(video=0), stream.lines, strict=True):
            expected = detector.detect(cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2BGR)).to_list()
            assert len(line["detections"]) == len(expected) > 0
            for ours, theirs in zip(line["detections"], expected, strict=True):
                # Batches of other sizes are summed in another order.
                assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-2)


def test_many_cameras_are_accounted_for_exactly(server: TritonServer, video: Path) -> None:
    cameras = [f"camera-{number}={video}" for number in range(12)]
    with streaming(server, *cameras, "--priority", "camera-3=1") as stream:
        assert stream.end()["captured"] == 12 * 50
    assert stream.process.returncode == 0
    assert stream.said.count("opened 1x") == 12
    assert any(line["source"] == "camera-3" and "error" not in line for line in stream.lines)


def test_a_server_that_stands_still_costs_frames_and_not_time(server: TritonServer, video: Path) -> None:
    in_flight = 2
    with streaming(server, f"camera={video}", "--loop", "--in-flight", in_flight, "--timeout", 30) as stream:
        stream.wait_for_answers(10)
        with stopped(server):
            captured = stream.metric("yolo_stream_frames_captured_total")
            began = time.time()
            stream.wait_for(lambda s: s.metric("yolo_stream_frames_captured_total") >= captured + 30)
            ended = time.time()
        stream.wait_for_answers(10)
        stream.signal(signal.SIGINT)
        counts = stream.end()
    assert stream.process.returncode == 0
    assert counts["failed"] == 0
    assert counts["dropped"] >= 30 - in_flight - 1
    from datetime import datetime

    captured_at = [datetime.fromisoformat(line["captured_at"]).timestamp() for line in stream.lines]
    assert captured_at == sorted(captured_at)
    # What was in flight when it stopped, or became so, and the one frame that waits: nothing else of that time is sent.
    assert sum(began < each < ended for each in captured_at) <= in_flight + 1


def test_streams_go_on_when_the_server_was_killed(server: TritonServer, video: Path) -> None:
    cameras = [f"camera-{number}={video}" for number in range(3)]
    with streaming(server, *cameras, "--loop", "--timeout", 2) as stream:
        stream.wait_for_answers(20)
        os.kill(server.pid, signal.SIGKILL)
        stream.wait_for(lambda s: s.metric("yolo_stream_frames_total", outcome="failed") > 3)
        server.stop()
        server.start()
        stream.wait_for_answers(20)
        stream.signal(signal.SIGTERM)
        counts = stream.end()
    assert stream.process.returncode == 0
    assert counts["failed"] > 3
    assert "server: answers again" in stream.said
    # Not one for each frame.
    assert sum(line.startswith("server: ") for line in stream.said.splitlines()) < 12
    assert all(line["error"] for line in stream.lines if "error" in line)


def test_a_second_signal_gives_up_what_is_in_flight(server: TritonServer, video: Path) -> None:
    with streaming(server, f"camera={video}", "--loop", "--in-flight", 2, "--timeout", 600) as stream:
        stream.wait_for_answers(5)
        with stopped(server):
            answered = stream.answered()
            captured = stream.metric("yolo_stream_frames_captured_total")
            stream.wait_for(lambda s: s.metric("yolo_stream_frames_captured_total") >= captured + 10)
            assert stream.answered() <= answered + 2
            stream.signal(signal.SIGINT)
            # Of two signals that come before it has heard the first, the system delivers one.
            stream.wait_for(lambda s: s.metric("yolo_stream_playing") == 0)
            assert stream.process.poll() is None
            stream.signal(signal.SIGINT)
            counts = stream.end()
    assert counts["failed"] == 2


class Rtsp:
    """GStreamer's RTSP server, which can be killed and started again on its port."""

    def __init__(self, port: int, folder: Path, count: int) -> None:
        self.url = f"rtsp://127.0.0.1:{port}/live"
        script = Path(__file__).with_name("rtsp_server.py")
        self._command = [SYSTEM_PYTHON, "-W", "ignore", script, port, folder, count, FPS]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([str(part) for part in self._command], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], PATIENCE_S)[0]
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def rtsp(pictures: list[np.ndarray], free_ports: FreePorts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rtsp]:
    check = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0');"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "assert all(map(Gst.ElementFactory.find, ('multifilesrc', 'jpegdec', 'x264enc', 'rtph264pay')))"
    )
    try:
        subprocess.run([SYSTEM_PYTHON, "-c", check], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"needs GStreamer's RTSP server: apt-get install {RTSP_PACKAGES}")
    folder = tmp_path_factory.mktemp("camera")
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:04}.jpg"), picture[..., ::-1])
    server = Rtsp(free_ports(1)[0], folder, len(pictures))
    yield server
    server.kill()


def test_a_camera_that_was_killed_is_connected_to_again(server: TritonServer, rtsp: Rtsp, tmp_path: Path) -> None:
    address = rtsp.url.replace("//", "//admin:secret@")
    with streaming(server, f"gate={address}", "--save", tmp_path) as stream:
        stream.wait_for_answers(20)
        for _ in range(2):
            rtsp.kill()
            stream.wait_for(lambda s: s.metric("yolo_stream_playing") == 0)
            rtsp.start()
            stream.wait_for(lambda s: s.metric("yolo_stream_playing") == 1)
            stream.wait_for_answers(20)
        stream.signal(signal.SIGINT)
        counts = stream.end()
    assert stream.process.returncode == 0
    assert counts["answered"] >= 60
    assert "gate: lost (" in stream.said
    assert stream.said.count("gate: back") == 2
    assert "opened 3x" in stream.said
    assert "secret" not in stream.said + json.dumps(stream.lines)
    found = Counter(detection["class"] for line in stream.lines for detection in line["detections"])
    assert len(found) >= 3
    with av.open(str(tmp_path / "gate.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == counts["answered"]
    assert times == sorted(times)


def test_a_rate_is_sampled_from_a_camera(server: TritonServer, rtsp: Rtsp) -> None:
    with streaming(server, f"gate={rtsp.url}", "--fps", 2) as stream:
        stream.wait_for_answers(6)
        stream.signal(signal.SIGINT)
        stream.end()
    # Five frames apart, but where the camera's own clock was corrected.
    steps = np.diff([line["frame"] for line in stream.lines])
    assert np.median(steps) == FPS / 2
