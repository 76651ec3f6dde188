"""Reading real files, and a real camera over HTTP."""

from __future__ import annotations

import http.server
import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.video.frames import Frame
from clients.video.queue import FrameQueue
from clients.video.reader import Reader, ReadOptions, SourceState
from clients.video.sources import sources_from
from tests.videos import number_in, numbered_picture, numbered_video, write_video

FAST = ReadOptions(drops_nothing=True)


def read(
    place: object, options: ReadOptions = FAST, stop_after: int | None = None
) -> tuple[list[Frame], Reader, list[str]]:
    """Every frame of a source, its reader and what it said."""
    (source,) = sources_from([str(place)])
    queue: FrameQueue[Frame] = FrameQueue([0], 1)
    said: list[str] = []
    crashes: list[BaseException] = []
    reader = Reader(0, source, queue, options, say=said.append, crashed=crashes.append)
    reader.start()
    frames: list[Frame] = []
    while (ticket := queue.take()) is not None:
        frames.append(ticket.frame)
        queue.release(ticket)
        if len(frames) == stop_after:
            reader.stop()
            queue.stop()
    reader.join()
    assert crashes == []
    assert reader.status.state is SourceState.ENDED
    return frames, reader, said


def numbers(frames: list[Frame]) -> list[int]:
    return [number_in(frame.picture.pixels().array_HWC) for frame in frames]


def test_every_frame_of_a_video_is_read_in_order(tmp_path: Path) -> None:
    frames, reader, said = read(numbered_video(tmp_path / "v.mp4", 60))
    assert numbers(frames) == list(range(60))
    assert [frame.number for frame in frames] == list(range(60))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(60) / 25, atol=1e-3)
    assert (said, reader.status.broken) == ([], [])


def test_a_rate_takes_frames_by_their_time(tmp_path: Path) -> None:
    frames, _, _ = read(numbered_video(tmp_path / "v.mp4", 50), ReadOptions(drops_nothing=True, fps=5))
    assert numbers(frames) == list(range(0, 50, 5))
    assert [frame.number for frame in frames] == list(range(0, 50, 5))


def test_a_video_in_real_time_has_its_latest_frame_waiting(tmp_path: Path) -> None:
    (source,) = sources_from([str(numbered_video(tmp_path / "v.mp4", 30, fps=60))])
    queue: FrameQueue[Frame] = FrameQueue([0], 1)
    reader = Reader(0, source, queue, ReadOptions(), say=print, crashed=print)
    reader.start()
    reader.join()
    ticket = queue.take()
    assert ticket is not None
    assert numbers([ticket.frame]) == [29]
    assert (queue.views()[0].captured, queue.views()[0].dropped) == (30, 29)


def test_a_folder_is_played_file_by_file_on_one_clock(tmp_path: Path) -> None:
    numbered_video(tmp_path / "b.mp4", 10, first=100)
    numbered_video(tmp_path / "c.mkv", 10, first=200)
    Image.fromarray(numbered_picture(7)).save(tmp_path / "a.png")
    frames, _, _ = read(tmp_path)
    assert numbers(frames) == [7, *range(100, 110), *range(200, 210)]
    times = [frame.time_s for frame in frames]
    assert times == sorted(times)
    assert {frame.file.name for frame in frames if frame.file} == {"a.png", "b.mp4", "c.mkv"}


def test_files_are_played_again_until_stopped(tmp_path: Path) -> None:
    options = ReadOptions(drops_nothing=True, loops=True)
    frames, reader, _ = read(numbered_video(tmp_path / "v.mp4", 10), options, stop_after=35)
    assert numbers(frames) == [*range(10)] * 3 + [*range(5)]
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))
    assert reader.status.connections == 4


def test_a_truncated_video_gives_what_it_has(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "v.ts", 100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, _, _ = read(path)
    assert numbers(frames)[:20] == list(range(20))


@pytest.mark.parametrize(
    "content", [b"", b"no video at all", b"\x00" * 5000, b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"]
)
def test_what_is_no_video_is_named_once_and_the_rest_is_played(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    numbered_video(tmp_path / "b.mp4", 5)
    frames, reader, said = read(tmp_path, ReadOptions(drops_nothing=True, loops=True), stop_after=12)
    assert numbers(frames) == [*range(5), *range(5), 0, 1]
    assert len(said) == len(reader.status.broken) == 1
    assert f"{tmp_path / 'a.mp4'}: cannot be read to its end (" in said[0]
    assert "\n" not in said[0]


def test_a_source_of_nothing_but_broken_files_ends_even_when_looped(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    frames, _, said = read(tmp_path, ReadOptions(loops=True))
    assert frames == []
    assert len(said) == 1


def test_a_file_with_sound_alone_is_named(tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames, reader, _ = read(path)
    assert frames == []
    assert "it has no video" in reader.status.broken[0]


@pytest.mark.parametrize(("degrees", "expected"), [(90, (192, 64)), (180, (64, 192)), (270, (192, 64)), (0, (64, 192))])
def test_a_turned_video_comes_upright(tmp_path: Path, degrees: int, expected: tuple[int, int]) -> None:
    """A phone stores what its sensor sees, and by how much a player turns it clockwise."""
    upright = np.zeros((*expected, 3), np.uint8)
    upright[: expected[0] // 4, : expected[1] // 4] = 255
    # np.rot90 turns counter-clockwise: what is stored is the upright picture turned back.
    stored = np.ascontiguousarray(np.rot90(upright, degrees // 90))
    path = write_video(tmp_path / "v.mp4", [stored] * 3)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    nil = bytes(4)
    rows = {
        0: (one, nil, nil, one),
        90: (nil, one, minus, nil),
        180: (minus, nil, nil, minus),
        270: (nil, minus, one, nil),
    }
    a, b, c, d = rows[degrees]
    data[matrix : matrix + 20] = a + b + nil + c + d
    path.write_bytes(data)
    frames, _, _ = read(path)
    found = frames[0].picture.pixels().array_HWC
    assert found.shape[:2] == expected
    assert np.abs(found.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_camera_that_says_nothing_is_given_up_and_tried_again(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.video.reader.OPEN_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (source,) = sources_from([f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x"])
        said: list[str] = []
        spoken = threading.Event()

        def say(line: str) -> None:
            said.append(line)
            spoken.set()

        reader = Reader(0, source, FrameQueue[Frame]([0], 1), ReadOptions(), say=say, crashed=print)
        reader.start()
        assert spoken.wait(30)
        reader.stop()
        reader.join(30)
    assert said == [f"{source.name}: lost (no answer within 0.3 s); trying again until it is back"]


class Camera(http.server.BaseHTTPRequestHandler):
    """Motion JPEG as IP cameras send it; each connection gives ten pictures, then the camera hangs up."""

    connections = 0

    def do_GET(self) -> None:
        first = 10 * type(self).connections
        type(self).connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(first, first + 10):
            encoded = io.BytesIO()
            Image.fromarray(numbered_picture(number)).save(encoded, "JPEG")
            jpeg = encoded.getvalue()
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
            self.wfile.write(jpeg + b"\r\n")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def camera() -> Iterator[str]:
    Camera.connections = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}/video?token=secret"
        server.shutdown()
        thread.join()


def watch(url: str, until: Callable[[Reader, list[int]], bool]) -> tuple[list[int], Reader, list[str]]:
    """Take frames of a camera until told; the numbers seen."""
    (source,) = sources_from([url])
    queue: FrameQueue[Frame] = FrameQueue([0], 1)
    said: list[str] = []
    reader = Reader(0, source, queue, ReadOptions(), say=said.append, crashed=print)
    reader.start()
    seen: list[int] = []
    while not until(reader, seen):
        ticket = queue.take()
        assert ticket is not None
        seen += numbers([ticket.frame])
        queue.release(ticket)
    reader.stop()
    queue.stop()
    reader.join(20)
    assert not reader.is_alive()
    return seen, reader, said


def test_a_camera_that_hangs_up_is_connected_to_again(camera: str) -> None:
    seen, reader, said = watch(camera, lambda _, seen: bool(seen) and max(seen) >= 20)
    assert seen == sorted(set(seen))
    assert reader.status.connections >= 3
    assert [line.rpartition(": ")[2].split(" ")[0] for line in said[:4]] == ["lost", "back", "lost", "back"]
    assert not any("secret" in line for line in said)


def test_a_camera_that_is_not_there_is_said_once_without_its_secrets() -> None:
    (source,) = sources_from(["rtsp://user:secret@127.0.0.1:9/x?token=secret"])
    queue: FrameQueue[Frame] = FrameQueue([0], 1)
    said: list[str] = []
    spoken = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        spoken.set()

    reader = Reader(0, source, queue, ReadOptions(), say=say, crashed=print)
    reader.start()
    assert spoken.wait(30)
    reader.join(1.5)
    reader.stop()
    reader.join(30)
    assert said == ["rtsp://127.0.0.1:9/x: lost (Connection refused); trying again until it is back"]
    assert queue.take() is None
