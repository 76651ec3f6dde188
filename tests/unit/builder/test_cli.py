"""Bad requests: each gets one clear line and its exit code, and the repository stays as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from builder.cli import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run ``build`` with flags that must be refused; gives the line, with the exit code in front."""
    repository = tmp_path / "repository"

    def run(*flags: str) -> str:
        arguments = ["build", "--repository", str(repository), "--cache", str(tmp_path / "cache"), *flags]
        code = main(arguments)
        captured = capsys.readouterr()
        assert code != 0
        assert not repository.exists(), "nothing is published, not even a folder"
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("error: ")
        return f"{code} {lines[0]}"

    return run


def test_an_unknown_gpu_lists_the_known_and_the_nearest(refusal) -> None:
    line = refusal("--gpu", "t5", "--weights", "examples/shapes/shapes.pt")
    assert line.startswith("2 ")
    assert "t4" in line
    assert "l40s" in line


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (None, "missing.pt", "examples/shapes/shapes.pt"),
        (b"", "empty.pt", "is empty"),
        (b"<!doctype html><title>Sign in</title>", "page.pt", "web page"),
        (b"PK\x03\x04truncated", "truncated.pt", "damaged"),
        (b"", "empty.onnx", "empty"),
        (b"\x00\x01garbage", "garbage.onnx", "ONNX"),
        (b"x", "model.engine", ".pt or .onnx"),
    ],
)
def test_weights_that_are_none(refusal, tmp_path: Path, content: bytes | None, name: str, expected: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert expected in refusal("--weights", str(path))


def test_imgsz_that_is_no_multiple_of_the_stride(refusal) -> None:
    line = refusal("--weights", str(ROOT / "examples/shapes/shapes.pt"), "--imgsz", "650")
    assert line.startswith("2 ")
    assert "multiple of the model's stride 32" in line
    assert "--imgsz 640" in line


def test_a_segmentation_model(refusal, tmp_path: Path) -> None:
    from ultralytics.nn.tasks import SegmentationModel

    from tests.networks import save_checkpoint

    path = save_checkpoint(SegmentationModel("yolo11n-seg.yaml", verbose=False), tmp_path / "seg.pt")
    assert "segmentation model" in refusal("--weights", str(path))


def test_images_that_cannot_be_read(refusal, tmp_path: Path) -> None:
    weights = ["--weights", str(ROOT / "examples/shapes/shapes.pt"), "--imgsz", "64"]
    assert "--images" in refusal(*weights, "--images", str(tmp_path / "none.jpg"))
    (tmp_path / "half.jpg").write_bytes((ROOT / "examples/shapes/unseen.jpg").read_bytes()[:5000])
    assert "half.jpg" in refusal(*weights, "--images", str(tmp_path / "half.jpg"))


def test_a_repository_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "file"
    target.write_text("mine")
    weights = str(ROOT / "examples/shapes/shapes.pt")
    assert main(["build", "--weights", weights, "--imgsz", "64", "--repository", str(target)]) == 1
    assert "error: " in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_verify_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--repository", str(tmp_path / "none")]) != 0
    captured = capsys.readouterr()
    assert len((captured.err + captured.out).strip().splitlines()) == 1


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from builder.cli import main\n"
        "try: main(['build', '--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'ultralytics', 'onnx', 'numpy', 'pydantic', 'cv2', 'openvino', 'tritonclient', 'google'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip().splitlines()[-1] == "[]"


def test_usage_errors_exit_2() -> None:
    for arguments in ([], ["nonsense"], ["build", "--nonsense"], ["serve", "--http-port", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
