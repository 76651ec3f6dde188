"""Results as JSON lines, videos and pictures."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clients.errors import ClientError
from clients.video.outputs import AnnotatedVideos, JsonLines, record
from clients.video.reader import ReadOptions
from clients.video.runner import Output, RunOptions, StreamRunner
from clients.video.sources import sources_from
from tests.videos import NumberDetector, number_in, numbered_picture, numbered_video, write_video


def run(texts: list[str], outputs: list[Output]) -> StreamRunner:
    options = RunOptions(reading=ReadOptions(drops_nothing=True), in_flight=3, confidence=0.25)
    runner = StreamRunner(sources_from(texts), NumberDetector(), options, outputs)
    runner.start()
    assert runner.wait(60)
    runner.close()
    return runner


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_a_line_for_every_frame(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 30)
    run([f"door={video}"], [JsonLines(str(tmp_path / "out.jsonl"))])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(30))
    assert [line["detections"][0]["xyxy"][0] for line in lines] == list(range(30))
    first = lines[0]
    assert (first["source"], first["file"], first["width"], first["height"]) == ("door", str(video), 192, 64)
    assert datetime.datetime.fromisoformat(first["captured_at"]).tzinfo is not None
    assert first["latency_ms"] > 0
    assert lines[25]["time_s"] == pytest.approx(1, abs=1e-3)


def test_a_stream_that_starts_again_loses_no_line(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5)
    for _ in range(2):
        run([f"door={video}"], [JsonLines(str(tmp_path / "out.jsonl"))])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [*range(5), *range(5)]


def test_a_failed_frame_is_a_line_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    run([str(tmp_path / "a.png")], [JsonLines(str(tmp_path / "out.jsonl"))])
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert "error" in json.loads(line)
    assert "detections" not in json.loads(line)


def test_tracked_objects_have_their_numbers(tmp_path: Path) -> None:
    class Kept:
        def __init__(self) -> None:
            self.records: list[dict[str, object]] = []

        def write(self, result) -> None:
            import dataclasses

            self.records.append(record(dataclasses.replace(result, track_ids=(7,))))

        def close(self) -> None:
            pass

    kept = Kept()
    run([str(numbered_video(tmp_path / "v.mp4", 1))], [kept])
    assert kept.records[0]["detections"][0]["track_id"] == 7


def test_an_annotated_video_has_every_frame_at_its_time(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 40)
    run([str(video)], [AnnotatedVideos(tmp_path / "out", sources_from([str(video)]))])
    frames = frames_of(tmp_path / "out" / "v.mp4")
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(40) / 25, atol=1e-3)
    # The labels lie over the lower bits.
    found = [number_in(frame.to_ndarray(format="rgb24")) >> 5 for frame in frames]
    assert found == [number >> 5 for number in range(40)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["v.mp4"]


def test_a_source_is_never_replaced_by_its_annotated_video(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5)
    before = video.read_bytes()
    run([str(video)], [AnnotatedVideos(tmp_path, sources_from([str(video)]))])
    assert video.read_bytes() == before
    assert len(frames_of(tmp_path / "v-2.mp4")) == 5


def test_sources_of_one_name_have_a_video_each(tmp_path: Path) -> None:
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        texts.append(str(numbered_video(tmp_path / name / "v.mp4", 5)))
    run(texts, [AnnotatedVideos(tmp_path / "out", sources_from(texts))])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["v-2.mp4", "v.mp4"]


def test_frames_of_another_size_and_of_odd_sides_go_into_a_video_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    numbered_video(folder / "a.mp4", 5)
    write_video(folder / "b.avi", [np.zeros((33, 51, 3), np.uint8)] * 4, codec="mjpeg")
    run([str(folder)], [AnnotatedVideos(tmp_path / "out", sources_from([str(folder)]))])
    assert len(frames_of(tmp_path / "out" / "camera.mp4")) == 5
    odd = frames_of(tmp_path / "out" / "camera-2.mp4")
    assert [(frame.width, frame.height) for frame in odd] == [(52, 34)] * 4


def test_pictures_are_saved_as_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(numbered_picture(number)).save(folder / f"{number}.png")
    run([str(folder)], [AnnotatedVideos(tmp_path / "out", sources_from([str(folder)]))])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]


def test_where_nothing_can_be_written_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClientError, match="--json"):
        JsonLines(str(tmp_path / "file" / "out.jsonl"))
    with pytest.raises(ClientError, match="--save"):
        AnnotatedVideos(tmp_path / "file" / "out", [])


def test_a_video_that_cannot_be_written_ends_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5)
    folder = tmp_path / "out"
    output = AnnotatedVideos(folder, sources_from([str(video)]))
    folder.rmdir()
    folder.touch()
    with pytest.raises(ClientError, match=r"cannot write .*v\.mp4"):
        run([str(video)], [output])
    assert folder.read_bytes() == b""
