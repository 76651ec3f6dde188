"""From the sample's weights to boxes on a real tritonserver, with every figure measured: ``make demo``."""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from builder.errors import BuilderError
from builder.server import TritonServer
from builder.server_options import ServerOptions
from clients import ClientError, Detections, Detector, draw, read_image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
IMAGE = HERE / "unseen.jpg"
REQUESTS = 30


def main() -> int:
    """Build, serve, detect and stop; 0, or 1 after one line on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="where the annotated picture goes")
    arguments = parser.parse_args()
    try:
        return demo(arguments.repository, arguments.out)
    except (BuilderError, ClientError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1


def demo(repository: Path, out: Path) -> int:
    """Print what each step took and what was found."""
    command = ["-m", "builder", "build", "--weights", str(HERE / "shapes.pt"), "--gpu", "t4", "--precision", "fp16"]
    # Parity is measured on what the model knows: it finds no shapes in the photographs that are the default.
    command += ["--images", str(IMAGE), "--repository", str(repository), "--json"]
    print("$ python", " ".join(command).replace(f"{ROOT}/", ""), flush=True)
    build = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=False)
    if build.returncode:
        return build.returncode
    built = json.loads(build.stdout)
    print("\nstarting tritonserver on the CPU configuration", flush=True)
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServerOptions(
        repository=repository,
        config_name="cpu",
        models=(built["model"],),
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
    )
    with TritonServer(options) as server, Detector(server.grpc_url, built["model"]) as detector:
        ready_after_s = server.ready_after_s
        first_ms, detections = timed(detector)
        median_ms = statistics.median(timed(detector)[0] for _ in range(REQUESTS))
    out.mkdir(parents=True, exist_ok=True)
    picture = save(detections, out / "unseen.png")
    rows = [(f"build: {s['name']}", "unchanged" if s["reused"] else f"{s['seconds']:.1f} s") for s in built["stages"]]
    rows += [
        ("model ready after", f"{ready_after_s:.1f} s"),
        ("first request", f"{first_ms:.0f} ms"),
        (f"median of {REQUESTS} requests", f"{median_ms:.0f} ms"),
        ("boxes found", summary(detections)),
        ("picture", str(picture.relative_to(ROOT) if picture.is_relative_to(ROOT) else picture)),
    ]
    print("\n" + "\n".join(f"{name:<24} {value}" for name, value in rows))
    if not len(detections):
        print("error: nothing was found on a picture full of shapes", file=sys.stderr)
        return 1
    return 0


def timed(detector: Detector) -> tuple[float, Detections]:
    """Milliseconds from the picture's file to its boxes, and the boxes."""
    start = time.perf_counter()
    detections = detector.detect(IMAGE)
    return (time.perf_counter() - start) * 1e3, detections


def save(detections: Detections, path: Path) -> Path:
    """Write the annotated picture."""
    from PIL import Image

    annotated_bgr = draw(read_image(IMAGE)[..., ::-1].copy(), detections)
    Image.fromarray(annotated_bgr[..., ::-1]).save(path)
    return path


def summary(detections: Detections) -> str:
    """``24 (7 circle, 5 cross, …)``."""
    names = [detections.names[i] for i in detections.class_id]
    return f"{len(names)} ({', '.join(f'{names.count(n)} {n}' for n in sorted(set(names)))})"


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens, so that a server that runs already is left alone."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    sys.exit(main())
