"""A client in a process of its own, which has loaded what it needs and no more: its memory is its own.

``python -m benchmarks.peers.worker JSON`` reads a request a line and answers each with a line, until its input ends.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.closed_loop import measure
from benchmarks.peers.agreement import CONFIDENCE, IOU
from clients.errors import ClientError

Detect = Callable[[str], Any]
"""From a file to whatever this client gives as boxes."""
Rows = list[list[float]]
"""x1 y1 x2 y2 in the picture's pixels, confidence, class."""
UNCOUNTED_CALLS = 3


class Client:
    """One caller's way from a file to boxes."""

    def __init__(self, detect: Detect, rows: Callable[[Any], Rows], close: Callable[[], object] = lambda: None) -> None:
        """``rows`` makes plain figures of what ``detect`` gives; it is never timed."""
        self.detect, self.rows, self.close = detect, rows, close


def detector(spec: dict[str, Any]) -> Client:
    """This project's client; ``url``, ``model`` and ``send``."""
    from clients import Detector

    ours = Detector(spec["url"], spec["model"], send=spec["send"])

    def rows(found: Any) -> Rows:
        parts = zip(found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True)
        return [[*box, confidence, number] for box, confidence, number in parts]

    return Client(lambda path: ours.detect(path, CONFIDENCE), rows, ours.close)


def yolo(spec: dict[str, Any]) -> Client:
    """Ultralytics' ``YOLO(model)``: a file, or the address of a model on Triton; ``imgsz``, ``rect``."""
    from ultralytics.models import YOLO

    model: Any = YOLO(spec["model"], task="detect")
    options = {"imgsz": spec["imgsz"], "rect": spec["rect"], "conf": CONFIDENCE, "iou": IOU, "verbose": False}
    return Client(lambda path: model(path, **options)[0].boxes, lambda boxes: boxes.data.tolist())


def roboflow(spec: dict[str, Any]) -> Client:
    """Roboflow's server over HTTP, as its own client asks it, the file as it is; ``port``, ``model``, ``names``."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", spec["port"], timeout=60)
    names: list[str] = spec["names"]
    asked = {"model_id": spec["model"], "api_key": "none", "confidence": CONFIDENCE, "iou_threshold": IOU}

    def ask(body: str) -> http.client.HTTPResponse:
        connection.request("POST", "/infer/object_detection", body, {"Content-Type": "application/json"})
        return connection.getresponse()

    def detect(path: str) -> Any:
        picture = base64.b64encode(Path(path).read_bytes()).decode()
        body = json.dumps({**asked, "image": {"type": "base64", "value": picture}})
        try:
            answer = ask(body)
        except ConnectionError:
            # The server closes a connection that was idle for five seconds.
            connection.close()
            answer = ask(body)
        text = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"Roboflow's server answered {answer.status}: {text.decode(errors='replace')[:200]}")
        return json.loads(text)["predictions"]

    def rows(found: Any) -> Rows:
        return [
            [
                box["x"] - box["width"] / 2,
                box["y"] - box["height"] / 2,
                box["x"] + box["width"] / 2,
                box["y"] + box["height"] / 2,
                box["confidence"],
                names.index(box["class"]),
            ]
            for box in found
        ]

    return Client(detect, rows, connection.close)


KINDS = {"detector": detector, "yolo": yolo, "roboflow": roboflow}


def _open(spec: dict[str, Any]) -> Client:
    return KINDS[spec["kind"]](spec)


class Worker:
    """Answers requests with the clients of one kind, one for each caller."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Connect, or load, the first."""
        self._spec = spec
        self._pictures: Sequence[str] = spec["pictures"]
        self._clients: list[Client] = []
        self._other: Client | None = None
        self._client(0)

    def boxes(self) -> list[Rows]:
        """Of each picture."""
        client = self._client(0)
        return [client.rows(client.detect(path)) for path in self._pictures]

    def latency(self, calls: int) -> list[float]:
        """Seconds of each call of one caller, the pictures in turns; the first few are not counted."""
        detect = self._client(0).detect
        for number in range(UNCOUNTED_CALLS):
            detect(self._pictures[number % len(self._pictures)])
        seconds = []
        for _ in range(calls):
            for path in self._pictures:
                start = time.perf_counter()
                detect(path)
                seconds.append(time.perf_counter() - start)
        return seconds

    def throughput(self, callers: int, settle_s: float, duration_s: float) -> float:
        """Pictures per second of so many callers at once."""

        def call(client: Client) -> Callable[[int], object]:
            return lambda number: client.detect(self._pictures[number % len(self._pictures)])

        calls = [call(self._client(number)) for number in range(callers)]
        for each in calls:
            each(0)
        return measure(calls, settle_s=settle_s, duration_s=duration_s).throughput_images_per_s

    def open_other(self, spec: dict[str, Any]) -> None:
        """Connect once more, elsewhere, and ask for every picture."""
        self._other = _open(spec)
        self.ask_other()

    def ask_other(self) -> None:
        """Ask for every picture there."""
        assert self._other is not None
        for path in self._pictures:
            self._other.detect(path)

    def close_other(self) -> None:
        """End that connection."""
        assert self._other is not None
        self._other.close()
        self._other = None

    def _client(self, number: int) -> Client:
        while len(self._clients) <= number:
            self._clients.append(_open(self._spec))
        return self._clients[number]


def _serve(spec: dict[str, Any], requests: TextIO, answers: TextIO) -> None:
    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        worker = Worker(spec)
        answer({"result": None})
        for line in requests:
            asked = json.loads(line)
            answer({"result": getattr(worker, asked.pop("do"))(**asked)})
    except Exception as error:  # whatever a library raises, the parent must hear of it
        reason = next(iter(str(error).strip().splitlines()), "")
        answer({"error": reason if isinstance(error, ClientError) else f"{type(error).__name__}: {reason}"})


def main() -> None:
    """Answer on standard output, where no library may write."""
    # Read when ultralytics is imported: it would install packages that it misses.
    os.environ["YOLO_AUTOINSTALL"] = "false"
    with os.fdopen(os.dup(1), "w") as answers, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        _serve(json.loads(sys.argv[1]), sys.stdin, answers)


if __name__ == "__main__":
    main()
