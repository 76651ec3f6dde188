"""Calibration in a process of its own: how much memory it takes does not depend on how many images it sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builder.artifacts import NetworkModel, Precision
from builder.spec import BuildSpec
from builder.stages import Stages

SHAPES = Path(__file__).parents[2] / "examples" / "shapes"
CALIBRATE = """
import json, resource, sys
from pathlib import Path
from builder.artifacts import NetworkModel
from builder.calibration import calibration_batches, choose_calibration
from builder.dataset import read_folder
from builder.quantization import calibrate

network, values, images, out, count = sys.argv[1:]
model = NetworkModel.from_json(json.loads(values), Path(network))
chosen = choose_calibration(read_folder(Path(images)), model.imgsz, int(count))
calibrate(model, calibration_batches(chosen), Path(out))
print(len(chosen.images), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> NetworkModel:
    spec = BuildSpec(
        weights=SHAPES / "shapes.pt", precision=Precision.FP32, imgsz=(320, 320), cache=tmp_path_factory.mktemp("cache")
    )
    return Stages(spec=spec, weights=spec.weights, report=lambda stage: None).network()


def test_512_images_take_at_most_a_tenth_more_memory_than_128(tmp_path, network):
    arguments = ["--out", str(tmp_path / "data"), "--train", "512", "--val", "1", "--size", "160x160"]
    subprocess.run([sys.executable, str(SHAPES / "generate.py"), *arguments], check=True, capture_output=True)
    peak = {}
    for count in (128, 512):
        out = tmp_path / str(count)
        out.mkdir()
        command = [
            str(network.path),
            json.dumps(network.to_json()),
            str(tmp_path / "data" / "images" / "train"),
            str(out),
        ]
        told = subprocess.run(
            [sys.executable, "-c", CALIBRATE, *command, str(count)], check=True, capture_output=True, text=True
        )
        images, peak[count] = map(int, told.stdout.split()[-2:])
        assert images == count
    assert peak[512] < 1.1 * peak[128], f"{peak} KiB"
